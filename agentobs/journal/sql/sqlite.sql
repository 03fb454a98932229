-- All SQL of the SQLite journal, by name (aiosql). Parameters are the fields of a record.

-- name: insert_run!
INSERT INTO runs (id, workflow, status, version, tags, idempotency_key, request_hash, traceparent, created_at,
    epoch, next_reason, resumed_from, recoveries, seq, input)
VALUES (:id, :workflow, :status, :version, :tags, :idempotency_key, :request_hash, :traceparent, :created_at,
    :epoch, :next_reason, :resumed_from, :recoveries, :seq, :input);

-- name: insert_tag!
INSERT INTO run_tags (key, value, run_id) VALUES (:key, :value, :run_id);

-- name: insert_fork!
INSERT INTO forks (run_id, source, step) VALUES (:id, :forked_from, :forked_step);

-- name: forks_of
SELECT run_id FROM forks WHERE source = :run_id ORDER BY run_id;

-- name: run_by_id^
SELECT *, (SELECT workflow_version FROM executions WHERE run_id = id AND number = 1) AS workflow_version,
    (SELECT source FROM forks WHERE run_id = id) AS forked_from,
    (SELECT step FROM forks WHERE run_id = id) AS forked_step
FROM runs WHERE id = :id;

-- name: run_by_idempotency_key^
SELECT * FROM runs WHERE idempotency_key = :idempotency_key;

-- name: count_queued$
SELECT count(*) FROM runs WHERE status = 'queued';

-- name: epoch_of^
-- The fence: every unit of a run is refused unless its row still stands at the owner's epoch.
SELECT epoch, owner FROM runs WHERE id = :run_id;

-- name: take_run!
UPDATE runs SET epoch = :epoch, owner = :owner, status = 'running', started_at = coalesce(started_at, :now),
    recoveries = :recoveries, resumed_from = :resumed_from, next_reason = 'recovered'
WHERE id = :id AND epoch = :epoch - 1 AND ended_at IS NULL;

-- name: release_run!
-- Drained: back to the queue for whoever comes.
UPDATE runs SET status = 'queued', owner = NULL, next_reason = :next_reason WHERE id = :id AND ended_at IS NULL;

-- name: requeue_run!
-- Resumed by someone: what was write-once at the first end stays, and end_seq, after which the numbers go on.
UPDATE runs SET status = 'queued', owner = NULL, next_reason = 'resumed', output = NULL, ended_at = NULL,
    error_type = NULL, error_message = NULL, error_step = NULL, error_agent = NULL, error_detail = NULL,
    cancel_requested_at = NULL, recoveries = 0
WHERE id = :id AND status IN ('failed', 'cancelled');

-- name: close_run!
UPDATE runs SET status = :status, output = :output, ended_at = :ended_at, end_seq = :end_seq, owner = NULL,
    error_type = :error_type, error_message = :error_message, error_step = :error_step, error_agent = :error_agent,
    error_detail = :error_detail, first_status = coalesce(first_status, :first_status),
    first_error_type = CASE WHEN first_ended_at IS NULL THEN :first_error_type ELSE first_error_type END,
    first_ended_at = coalesce(first_ended_at, :first_ended_at)
WHERE id = :id AND ended_at IS NULL;

-- name: pardon!
-- This process is about to die of one run: the death it brings to the others it holds does not count as theirs.
UPDATE runs SET recoveries = recoveries - 1 WHERE owner = :owner AND status = 'running' AND id <> :guilty;

-- name: ask_cancel!
UPDATE runs SET cancel_requested_at = coalesce(cancel_requested_at, :now) WHERE id = :id;

-- name: insert_execution!
INSERT INTO executions (run_id, number, reason, worker, owner, epoch, version, workflow_version, started_at, reused,
    diverged, seq)
VALUES (:run_id, :number, :reason, :worker, :owner, :epoch, :version, :workflow_version, :started_at, :reused,
    :diverged, :seq);

-- name: close_execution!
UPDATE executions SET ended_at = :ended_at, outcome = :outcome, error_type = :error_type, reused = :reused,
    diverged = :diverged, end_seq = :end_seq
WHERE run_id = :run_id AND number = :number AND ended_at IS NULL;

-- name: insert_step!
INSERT INTO steps (run_id, number, execution, key, branch, kind, name, agent, model, parent, tool_call_id, status,
    started_at, seq, input)
VALUES (:run_id, :number, :execution, :key, :branch, :kind, :name, :agent, :model, :parent, :tool_call_id, :status,
    :started_at, :seq, :input);

-- name: insert_reused_step!
INSERT INTO reused_steps (run_id, step, saved_pico) VALUES (:run_id, :number, :saved_pico);

-- name: close_step!
UPDATE steps SET status = :status, output = :output, error_type = :error_type, error_detail = :error_detail,
    ended_at = :ended_at, end_seq = :end_seq
WHERE run_id = :run_id AND number = :number AND ended_at IS NULL;

-- name: insert_attempt!
INSERT INTO attempts (run_id, step, turn, number, model, provider, url, stream, max_tokens, effort, started_at, usage,
    reserved_pico, wait_ns, final, turn_started_at, seq)
VALUES (:run_id, :step, :turn, :number, :model, :provider, :url, :stream, :max_tokens, :effort, :started_at, :usage,
    :reserved_pico, :wait_ns, :final, :turn_started_at, :seq);

-- name: note_attempt!
UPDATE attempts SET first_chunk_at = :first_chunk_at, http_status = :http_status, request_id = :request_id, response_id = :response_id,
    response_model = :response_model, usage = :usage, input_uncached = :input_uncached, output = :output,
    cache_read = :cache_read, cache_write = :cache_write, reasoning = :reasoning, cost_pico = :cost_pico,
    price_version = :price_version
WHERE run_id = :run_id AND step = :step AND turn = :turn AND number = :number AND ended_at IS NULL;

-- name: close_attempt!
UPDATE attempts SET first_chunk_at = :first_chunk_at, ended_at = :ended_at, outcome = :outcome,
    http_status = :http_status, error_class = :error_class, request_id = :request_id, response_id = :response_id,
    response_model = :response_model, stop_reason = :stop_reason, usage = :usage, input_uncached = :input_uncached,
    output = :output, cache_read = :cache_read, cache_write = :cache_write, reasoning = :reasoning,
    cost_pico = :cost_pico, price_version = :price_version, not_before = :not_before, final = :final,
    answer = :answer, end_seq = :end_seq
WHERE run_id = :run_id AND step = :step AND turn = :turn AND number = :number AND ended_at IS NULL;

-- name: settle_attempt!
UPDATE attempts SET final = 1
WHERE run_id = :run_id AND step = :step AND turn = :turn AND number = :number AND ended_at IS NOT NULL AND final = 0;

-- name: insert_note!
INSERT INTO notes (run_id, execution, seq, kind, key, value, at)
VALUES (:run_id, :execution, :seq, :kind, :key, :value, :at);

-- name: add_total!
-- Exact beyond 64 bits: 2^63 pico-dollars are only nine million dollars.
INSERT INTO totals (worker, metric, labels, carry, value) VALUES (:worker, :metric, :labels, :carry, :value)
ON CONFLICT (worker, metric, labels) DO UPDATE SET
    carry = carry + excluded.carry + (value + excluded.value) / 1000000000000000000,
    value = (value + excluded.value) % 1000000000000000000;

-- name: totals_of
SELECT metric, labels, carry, value FROM totals WHERE worker = :worker;

-- name: insert_audit<!
INSERT INTO audits (at, took_ns, compared, drift, findings, remarks)
VALUES (:at, :took_ns, :compared, :drift, :findings, :remarks);

-- name: latest_drift
-- Of each kind what the latest audit found that looked at it.
SELECT kind, drift FROM (
    SELECT j.key AS kind, j.value AS drift, max(a.id) FROM audits a, json_each(a.drift) j GROUP BY j.key
);

-- name: owe!
INSERT INTO outbox (id, at, run_id, spans) VALUES (:id, :at, :run_id, :spans);

-- name: delivered!
DELETE FROM outbox WHERE id = :id;

-- name: last_owed$
SELECT coalesce(max(id), 0) FROM outbox;

-- name: owed_after
SELECT id, at, run_id, spans FROM outbox WHERE id > :after ORDER BY id LIMIT :limit;

-- name: owed_stats^
SELECT coalesce(sum(json_array_length(spans)), 0) AS spans, min(at) AS oldest FROM outbox;

-- name: unfinished_withheld^
SELECT 1 FROM withheld w JOIN runs r ON r.id = w.run_id WHERE r.status IN ('queued', 'running', 'waiting') LIMIT 1;

-- name: withheld_since^
SELECT r.created_at FROM withheld w JOIN runs r ON r.id = w.run_id WHERE w.run_id = :run_id;

-- name: withhold!
INSERT INTO withheld (run_id) VALUES (:run_id);

-- name: release_withheld!
DELETE FROM withheld WHERE run_id = :run_id;

-- name: spans_of
-- All that rows.owed_spans has called for, unit by unit, up to now.
SELECT 'run' AS kind, 0 AS number, 0 AS turn, 0 AS attempt FROM runs
WHERE id = :run_id AND first_ended_at IS NOT NULL
UNION ALL SELECT 'execution', number, 0, 0 FROM executions
WHERE run_id = :run_id AND number > 1 AND ended_at IS NOT NULL
UNION ALL SELECT 'step', number, 0, 0 FROM steps WHERE run_id = :run_id AND ended_at IS NOT NULL
    AND number NOT IN (SELECT step FROM reused_steps WHERE run_id = :run_id)
UNION ALL SELECT 'attempt', step, turn, number FROM attempts WHERE run_id = :run_id AND ended_at IS NOT NULL
UNION ALL SELECT 'turn', step, turn, number FROM attempts
WHERE run_id = :run_id AND ended_at IS NOT NULL AND final = 1;

-- name: claimable
SELECT id FROM runs
WHERE status IN ('queued', 'running') AND id > :after AND (owner IS NULL OR owner <> :owner)
    AND workflow IN (SELECT value FROM json_each(:workflows))
ORDER BY id LIMIT :limit;

-- name: queue_state
SELECT workflow, count(*) AS queued, min(created_at) AS oldest_created_at FROM runs WHERE status = 'queued'
GROUP BY workflow;

-- name: executions_of
SELECT e.*, r.workflow FROM executions e JOIN runs r ON r.id = e.run_id WHERE e.run_id = :run_id ORDER BY e.number;

-- name: steps_of
SELECT s.*, r.workflow, e.version, e.workflow_version, e.reason, p.key AS parent_key, u.saved_pico
FROM steps s JOIN runs r ON r.id = s.run_id
JOIN executions e ON e.run_id = s.run_id AND e.number = s.execution
LEFT JOIN steps p ON p.run_id = s.run_id AND p.number = s.parent
LEFT JOIN reused_steps u ON u.run_id = s.run_id AND u.step = s.number
WHERE s.run_id = :run_id ORDER BY s.number;

-- name: attempts_of
SELECT a.*, s.execution, s.key, s.agent, r.workflow, e.version, e.workflow_version, e.reason
FROM attempts a JOIN steps s ON s.run_id = a.run_id AND s.number = a.step
JOIN runs r ON r.id = a.run_id
JOIN executions e ON e.run_id = s.run_id AND e.number = s.execution
WHERE a.run_id = :run_id ORDER BY a.step, a.turn, a.number;

-- name: steps_between
SELECT s.*, r.workflow, e.version, e.workflow_version, e.reason, p.key AS parent_key, u.saved_pico
FROM steps s JOIN runs r ON r.id = s.run_id
JOIN executions e ON e.run_id = s.run_id AND e.number = s.execution
LEFT JOIN steps p ON p.run_id = s.run_id AND p.number = s.parent
LEFT JOIN reused_steps u ON u.run_id = s.run_id AND u.step = s.number
WHERE s.run_id = :run_id
    AND ((s.seq > :after AND s.seq <= :until) OR (s.end_seq > :after AND s.end_seq <= :until))
ORDER BY s.number;

-- name: attempts_between
-- Also all attempts of a step that ended there.
SELECT a.*, s.execution, s.key, s.agent, r.workflow, e.version, e.workflow_version, e.reason
FROM attempts a JOIN steps s ON s.run_id = a.run_id AND s.number = a.step
JOIN runs r ON r.id = a.run_id
JOIN executions e ON e.run_id = s.run_id AND e.number = s.execution
WHERE a.run_id = :run_id
    AND ((a.seq > :after AND a.seq <= :until) OR (a.end_seq > :after AND a.end_seq <= :until)
        OR (s.end_seq > :after AND s.end_seq <= :until))
ORDER BY a.step, a.turn, a.number;

-- name: events_until$
-- The number of the last of the next :limit events. Earlier ends of a run that was resumed are notes.
SELECT max(seq) FROM (
    SELECT seq FROM (
        SELECT seq FROM runs WHERE id = :run_id
        UNION SELECT end_seq FROM runs WHERE id = :run_id AND ended_at IS NOT NULL
        UNION SELECT seq FROM executions WHERE run_id = :run_id
        UNION SELECT end_seq FROM executions WHERE run_id = :run_id
        UNION SELECT seq FROM steps WHERE run_id = :run_id AND seq > :after
        UNION SELECT end_seq FROM steps WHERE run_id = :run_id AND end_seq > :after
        UNION SELECT seq FROM attempts WHERE run_id = :run_id AND seq > :after
        UNION SELECT end_seq FROM attempts WHERE run_id = :run_id AND end_seq > :after
        UNION SELECT seq FROM notes WHERE run_id = :run_id AND seq > :after AND kind = 'ended'
    ) WHERE seq > :after ORDER BY seq LIMIT :limit
);

-- name: notes_of
SELECT n.*, r.workflow FROM notes n JOIN runs r ON r.id = n.run_id WHERE n.run_id = :run_id ORDER BY n.seq;

-- name: last_seq$
SELECT max(
    coalesce((SELECT max(max(seq, coalesce(end_seq, 0))) FROM runs WHERE id = :run_id), 0),
    coalesce((SELECT max(max(seq, coalesce(end_seq, 0))) FROM executions WHERE run_id = :run_id), 0),
    coalesce((SELECT max(max(seq, coalesce(end_seq, 0))) FROM steps WHERE run_id = :run_id), 0),
    coalesce((SELECT max(max(seq, coalesce(end_seq, 0))) FROM attempts WHERE run_id = :run_id), 0),
    coalesce((SELECT max(seq) FROM notes WHERE run_id = :run_id), 0)
);
