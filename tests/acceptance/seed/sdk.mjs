// Uses the official TypeScript SDK as its users do, once a case, and prints what it saw as JSON:
//     node sdk.mjs CASE        (ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY say of whom)
import Anthropic from '@anthropic-ai/sdk';
import { betaTool } from '@anthropic-ai/sdk/helpers/beta/json-schema';

const ASK = {
  model: 'claude-haiku-4-5',
  max_tokens: 400,
  messages: [{ role: 'user', content: 'Tell me about tides, and then about harbours.' }],
};
const TIDE = {
  name: 'tide',
  description: 'When the tide is high.',
  input_schema: { type: 'object', properties: { port: { type: 'string' } }, required: ['port'] },
};
const SHAPE = {
  type: 'object',
  properties: { title: { type: 'string' }, hours: { type: 'array', items: { type: 'integer' } } },
  required: ['title', 'hours'],
  additionalProperties: false,
};
const QUESTION = { role: 'user', content: 'When is high tide at the north port?' };
const client = new Anthropic({ maxRetries: 2 });

const textOf = (message) => message.content.filter((block) => block.type === 'text').map((block) => block.text).join('');
const seen = (message) => ({
  text: textOf(message),
  kinds: message.content.map((block) => block.type),
  model: message.model,
  stop_reason: message.stop_reason,
  usage: message.usage,
});

/** What a call throws: its class, and what it tells. */
async function thrown(call) {
  try {
    await call();
  } catch (error) {
    const { status, type, requestID, name } = error;
    return { class: error.constructor.name, status: status ?? null, type: type ?? null, request_id: requestID ?? null, name };
  }
  return null;
}

async function streamed(body) {
  const events = [];
  let text = '';
  const stream = client.messages.stream(body);
  stream.on('streamEvent', (event) => events.push(event.type));
  stream.on('text', (piece) => (text += piece));
  const message = await stream.finalMessage();
  return { ...seen(message), pieces: text, events, request_id: stream.request_id ?? null };
}

/** Answers calls until there are none; `ask` sends one request. */
async function toolLoop(ask) {
  const messages = [QUESTION];
  for (let turn = 1; turn <= 5; turn++) {
    const message = await ask({ ...ASK, tools: [TIDE], messages });
    const calls = message.content.filter((block) => block.type === 'tool_use');
    if (calls.length === 0) return { turns: turn, ...seen(message) };
    messages.push({ role: 'assistant', content: message.content });
    messages.push({
      role: 'user',
      content: calls.map((call) => ({ type: 'tool_result', tool_use_id: call.id, content: `at nine in ${call.input.port}` })),
    });
  }
  throw new Error('five turns and no end');
}

const CASES = {
  async plain() {
    const { data, response, request_id } = await client.messages.create(ASK).withResponse();
    return { ...seen(data), request_id, limit: response.headers.get('anthropic-ratelimit-requests-limit') };
  },
  stream: () => streamed(ASK),
  async raw_stream() {
    const events = [];
    for await (const event of await client.messages.create({ ...ASK, stream: true })) events.push(event.type);
    return { events };
  },
  thinking: () => streamed({ ...ASK, max_tokens: 3000, thinking: { type: 'enabled', budget_tokens: 1024 } }),
  tools: () => toolLoop((body) => client.messages.create(body)),
  tools_stream: () => toolLoop((body) => client.messages.stream(body).finalMessage()),
  async tool_runner() {
    const ports = [];
    const run = ({ port }) => (ports.push(port), 'at nine');
    const tool = betaTool({ name: 'tide', description: TIDE.description, inputSchema: TIDE.input_schema, run });
    const message = await client.beta.messages.toolRunner({ ...ASK, messages: [QUESTION], tools: [tool] });
    return { ...seen(message), ports };
  },
  async structured() {
    const format = { type: 'json_schema', schema: SHAPE };
    const message = await client.messages.create({ ...ASK, output_config: { format } });
    return { ...seen(message), value: JSON.parse(textOf(message)) };
  },
  async cache() {
    const system = [{ type: 'text', text: 'Of tides. '.repeat(3000), cache_control: { type: 'ephemeral', ttl: '1h' } }];
    const first = await client.messages.create({ ...ASK, system });
    const second = await client.messages.create({ ...ASK, system });
    return { first: first.usage, second: second.usage };
  },
  async count_tokens() {
    const { model, messages } = ASK;
    const counted = await client.messages.countTokens({ model, messages, system: 'Be brief.' });
    const { usage } = await client.messages.create({ ...ASK, system: 'Be brief.' });
    return { counted: counted.input_tokens, billed: usage.input_tokens };
  },
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids, one: (await client.models.retrieve('claude-opus-4-5')).id };
  },
  error: () => thrown(() => client.messages.create(ASK)),
  error_stream: () => thrown(() => client.messages.stream(ASK).finalMessage()),
  bad_request: () => thrown(() => client.messages.create({ ...ASK, messages: [] })),
  no_model: () => thrown(() => client.messages.create({ ...ASK, model: 'claude-none' })),
  async gone() {
    const stream = client.messages.stream({ ...ASK, max_tokens: 2000 });
    stream.on('text', () => stream.abort());
    return thrown(() => stream.finalMessage());
  },
};

const [name] = process.argv.slice(2);
console.log(JSON.stringify(await CASES[name]()));
