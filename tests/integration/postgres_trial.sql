-- The SQLite journal's schema and statements as PostgreSQL needs them, tried by test_postgres_statements.py (aiosql).
-- Names are those of agentobs/journal/sql/sqlite.sql where a statement has the same task. What differs is marked DIFFERS.

-- name: create_schema#
-- DIFFERS: bigint for times and costs, boolean for flags, numeric for sums (2**63 pico-dollars are 9.2 million dollars).
-- Texts are text, never json or jsonb. COLLATE "C" on ids: their order is the lock order, Python's and the keyset's.
CREATE TABLE owners (
    worker text PRIMARY KEY,
    id text NOT NULL UNIQUE,
    heartbeat timestamptz NOT NULL
);
CREATE TABLE runs (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    workflow text NOT NULL,
    status text NOT NULL,
    version text NOT NULL,
    tags text NOT NULL,
    idempotency_key text COLLATE "C",
    request_hash text NOT NULL,
    traceparent text,
    created_at bigint NOT NULL,
    started_at bigint,
    ended_at bigint,
    error_type text,
    error_message text,
    error_step integer,
    error_agent text,
    epoch integer NOT NULL,
    owner text,
    next_reason text NOT NULL,
    resumed_from integer NOT NULL,
    recoveries integer NOT NULL,
    cancel_requested_at bigint,
    first_status text,
    first_ended_at bigint,
    first_error_type text,
    seq integer NOT NULL,
    end_seq integer,
    error_detail text,
    input text NOT NULL,
    output text
);
CREATE UNIQUE INDEX runs_by_idempotency_key ON runs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX runs_unfinished ON runs (id) WHERE status IN ('queued', 'running');
CREATE INDEX runs_to_cancel ON runs (owner) WHERE cancel_requested_at IS NOT NULL AND ended_at IS NULL;
CREATE TABLE run_tags (
    key text NOT NULL,
    value text NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (key, value, run_id)
);
CREATE TABLE executions (
    run_id text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    reason text NOT NULL,
    worker text NOT NULL,
    owner text NOT NULL,
    epoch integer NOT NULL,
    version text NOT NULL,
    started_at bigint NOT NULL,
    ended_at bigint,
    outcome text,
    error_type text,
    reused integer NOT NULL,
    diverged integer NOT NULL,
    seq integer NOT NULL,
    end_seq integer,
    PRIMARY KEY (run_id, number)
);
CREATE TABLE steps (
    run_id text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    execution integer NOT NULL,
    key text NOT NULL,
    branch text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    agent text,
    model text,
    parent integer,
    tool_call_id text,
    status text NOT NULL,
    error_type text,
    started_at bigint NOT NULL,
    ended_at bigint,
    seq integer NOT NULL,
    end_seq integer,
    error_detail text,
    input text NOT NULL,
    output text,
    PRIMARY KEY (run_id, number)
);
CREATE UNIQUE INDEX steps_succeeded ON steps (run_id, key) WHERE status = 'succeeded';
CREATE TABLE attempts (
    run_id text COLLATE "C" NOT NULL,
    step integer NOT NULL,
    turn integer NOT NULL,
    number integer NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    url text NOT NULL,
    stream boolean NOT NULL,
    max_tokens integer NOT NULL,
    effort text,
    started_at bigint NOT NULL,
    first_chunk_at bigint,
    ended_at bigint,
    outcome text,
    http_status integer,
    error_class text,
    request_id text,
    response_id text,
    response_model text,
    stop_reason text,
    usage text NOT NULL,
    input_uncached bigint,
    output bigint,
    cache_read bigint,
    cache_write bigint,
    reasoning bigint,
    cost_pico bigint,
    price_version text,
    reserved_pico bigint,
    wait_ns bigint NOT NULL,
    not_before bigint,
    final boolean NOT NULL,
    turn_started_at bigint NOT NULL,
    seq integer NOT NULL,
    end_seq integer,
    answer text,
    PRIMARY KEY (run_id, step, turn, number)
);
CREATE TABLE notes (
    run_id text COLLATE "C" NOT NULL,
    execution integer NOT NULL,
    seq integer NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (run_id, seq)
);
CREATE TABLE totals (
    worker text COLLATE "C" NOT NULL,
    metric text COLLATE "C" NOT NULL,
    labels text COLLATE "C" NOT NULL,
    value numeric NOT NULL,
    PRIMARY KEY (worker, metric, labels)
);
-- DIFFERS: numbered by the owner that wrote the row, so that each owner's rows are without gaps and in commit order.
CREATE TABLE outbox (
    owner text NOT NULL,
    id bigint NOT NULL,
    at bigint NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    spans text NOT NULL,
    PRIMARY KEY (owner, id)
);

-- name: register_owner^
-- DIFFERS: the lock file's place. A name belongs to one living process; no row: its holder still renews its lease.
INSERT INTO owners (worker, id, heartbeat) VALUES (:worker, :owner, clock_timestamp())
ON CONFLICT (worker) DO UPDATE SET id = excluded.id, heartbeat = excluded.heartbeat
WHERE owners.heartbeat < clock_timestamp() - make_interval(secs => :lease_s)
RETURNING id;

-- name: heartbeat^
-- DIFFERS: no row: another process has this name now, so this one was dead for longer than its lease.
UPDATE owners SET heartbeat = clock_timestamp() WHERE id = :owner RETURNING worker;

-- name: to_cancel
-- DIFFERS: asked with each heartbeat, for the notifications that were missed.
SELECT id FROM runs WHERE owner = :owner AND cancel_requested_at IS NOT NULL AND ended_at IS NULL ORDER BY id;

-- name: notify_cancel
SELECT pg_notify('agentobs_cancel', :run_id);

-- name: fences
-- DIFFERS: all runs of a batch at once, in id order, before its first savepoint (a savepoint rolled back gives its locks
-- up). FOR SHARE waits for a takeover's FOR NO KEY UPDATE and makes it wait; FOR KEY SHARE would do neither.
SELECT id, epoch FROM runs WHERE id = ANY(:ids) ORDER BY id FOR SHARE;

-- name: fences_exclusive
-- BETTER: costs no more (either lock is a write to the row), and a unit that updates the run's row need not raise it.
SELECT id, epoch FROM runs WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE;

-- name: fences_without_lock
-- WRONG, as is the next: kept to show it.
SELECT id, epoch FROM runs WHERE id = ANY(:ids) ORDER BY id;

-- name: fences_with_key_share
SELECT id, epoch FROM runs WHERE id = ANY(:ids) ORDER BY id FOR KEY SHARE;

-- name: epoch_of^
SELECT epoch, owner FROM runs WHERE id = :run_id FOR SHARE;

-- name: lock_run^
-- DIFFERS: the first statement of a takeover. Whatever else is read, is read by later statements: under READ COMMITTED
-- each has a snapshot of its own, taken after this lock was given.
SELECT id, epoch, owner, status FROM runs WHERE id = :run_id FOR NO KEY UPDATE;

-- name: lock_run_with_lease^
-- WRONG, kept to show it: after waiting for the lock the row is read again, but `owners` in the statement's old snapshot.
SELECT r.id, r.epoch, r.owner, r.status, EXISTS (
    SELECT FROM owners o WHERE o.id = r.owner AND o.heartbeat > clock_timestamp() - make_interval(secs => :lease_s)
) AS alive
FROM runs r WHERE r.id = :run_id FOR NO KEY UPDATE OF r;

-- name: owner_alive$
SELECT EXISTS (
    SELECT FROM owners WHERE id = :owner AND heartbeat > clock_timestamp() - make_interval(secs => :lease_s)
);

-- name: claimable
-- DIFFERS: "nobody living owns" is read from `owners`.
SELECT r.id FROM runs r
WHERE r.status IN ('queued', 'running') AND r.id > :after AND r.workflow = ANY(:workflows)
    AND NOT EXISTS (
        SELECT FROM owners o
        WHERE o.id = r.owner AND o.heartbeat > clock_timestamp() - make_interval(secs => :lease_s)
    )
ORDER BY r.id LIMIT :limit;

-- name: insert_run!
-- DIFFERS: waits for another submit of the same key; no row written: read the run that holds the key.
INSERT INTO runs (id, workflow, status, version, tags, idempotency_key, request_hash, traceparent, created_at,
    epoch, next_reason, resumed_from, recoveries, seq, input)
VALUES (:id, :workflow, :status, :version, :tags, :idempotency_key, :request_hash, :traceparent, :created_at,
    :epoch, :next_reason, :resumed_from, :recoveries, :seq, :input)
ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING;

-- name: insert_tag!
INSERT INTO run_tags (key, value, run_id) VALUES (:key, :value, :run_id);

-- name: run_by_id^
SELECT * FROM runs WHERE id = :id;

-- name: run_by_idempotency_key^
SELECT * FROM runs WHERE idempotency_key = :idempotency_key;

-- name: count_queued$
SELECT count(*) FROM runs WHERE status = 'queued';

-- name: take_run!
UPDATE runs SET epoch = :epoch, owner = :owner, status = 'running', started_at = coalesce(started_at, :now),
    recoveries = :recoveries, resumed_from = :resumed_from, next_reason = 'recovered'
WHERE id = :id AND epoch = :epoch - 1 AND ended_at IS NULL;

-- name: release_run!
UPDATE runs SET status = 'queued', owner = NULL, next_reason = :next_reason WHERE id = :id AND ended_at IS NULL;

-- name: requeue_run!
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

-- name: ask_cancel!
UPDATE runs SET cancel_requested_at = coalesce(cancel_requested_at, :now) WHERE id = :id;

-- name: insert_execution!
INSERT INTO executions (run_id, number, reason, worker, owner, epoch, version, started_at, reused, diverged, seq)
VALUES (:run_id, :number, :reason, :worker, :owner, :epoch, :version, :started_at, :reused, :diverged, :seq);

-- name: close_execution!
UPDATE executions SET ended_at = :ended_at, outcome = :outcome, error_type = :error_type, reused = :reused,
    diverged = :diverged, end_seq = :end_seq
WHERE run_id = :run_id AND number = :number AND ended_at IS NULL;

-- name: insert_step!
INSERT INTO steps (run_id, number, execution, key, branch, kind, name, agent, model, parent, tool_call_id, status,
    started_at, seq, input)
VALUES (:run_id, :number, :execution, :key, :branch, :kind, :name, :agent, :model, :parent, :tool_call_id, :status,
    :started_at, :seq, :input);

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
UPDATE attempts SET first_chunk_at = :first_chunk_at, http_status = :http_status, request_id = :request_id,
    response_id = :response_id, response_model = :response_model, usage = :usage, input_uncached = :input_uncached,
    output = :output, cache_read = :cache_read, cache_write = :cache_write, reasoning = :reasoning,
    cost_pico = :cost_pico, price_version = :price_version
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
-- DIFFERS: true and false.
UPDATE attempts SET final = true
WHERE run_id = :run_id AND step = :step AND turn = :turn AND number = :number AND ended_at IS NOT NULL AND NOT final;

-- name: insert_note!
INSERT INTO notes (run_id, execution, seq, kind, key, value, at)
VALUES (:run_id, :execution, :seq, :kind, :key, :value, :at);

-- name: last_commit^
-- The end of a dead execution, and the next free number of its run. DIFFERS: greatest() for SQLite's max() of several.
SELECT (
    SELECT max(t) FROM (
        SELECT started_at AS t FROM executions WHERE run_id = :run_id AND number = :execution
        UNION ALL SELECT greatest(started_at, ended_at) FROM steps WHERE run_id = :run_id AND execution = :execution
        UNION ALL SELECT greatest(a.started_at, a.first_chunk_at, a.ended_at)
        FROM attempts a JOIN steps s ON s.run_id = a.run_id AND s.number = a.step
        WHERE a.run_id = :run_id AND s.execution = :execution
        UNION ALL SELECT at FROM notes WHERE run_id = :run_id AND execution = :execution
    ) AS times
) AS at, (
    SELECT max(n) FROM (
        SELECT greatest(seq, end_seq) AS n FROM runs WHERE id = :run_id
        UNION ALL SELECT greatest(seq, end_seq) FROM executions WHERE run_id = :run_id
        UNION ALL SELECT greatest(seq, end_seq) FROM steps WHERE run_id = :run_id
        UNION ALL SELECT greatest(seq, end_seq) FROM attempts WHERE run_id = :run_id
        UNION ALL SELECT seq FROM notes WHERE run_id = :run_id
    ) AS numbers
) + 1 AS seq;

-- name: last_seq$
SELECT greatest(
    (SELECT max(greatest(seq, end_seq)) FROM runs WHERE id = :run_id),
    (SELECT max(greatest(seq, end_seq)) FROM executions WHERE run_id = :run_id),
    (SELECT max(greatest(seq, end_seq)) FROM steps WHERE run_id = :run_id),
    (SELECT max(greatest(seq, end_seq)) FROM attempts WHERE run_id = :run_id),
    (SELECT max(seq) FROM notes WHERE run_id = :run_id),
    0
);

-- name: interrupt_attempts
UPDATE attempts a SET ended_at = :at, outcome = 'interrupted', final = true, end_seq = :seq + o.place
FROM (
    SELECT a.step, a.turn, a.number, CAST(row_number() OVER (ORDER BY a.step) AS integer) - 1 AS place
    FROM attempts a JOIN steps s ON s.run_id = a.run_id AND s.number = a.step
    WHERE a.run_id = :run_id AND s.execution = :execution AND a.ended_at IS NULL
) AS o
WHERE a.run_id = :run_id AND a.step = o.step AND a.turn = o.turn AND a.number = o.number AND a.ended_at IS NULL
RETURNING a.step;

-- name: interrupt_steps
UPDATE steps s SET ended_at = :at, status = 'interrupted', error_type = 'interrupted', end_seq = :seq + o.place
FROM (
    SELECT number, CAST(row_number() OVER (ORDER BY number) AS integer) - 1 AS place
    FROM steps WHERE run_id = :run_id AND execution = :execution AND ended_at IS NULL
) AS o
WHERE s.run_id = :run_id AND s.number = o.number AND s.ended_at IS NULL
RETURNING s.number;

-- name: finished_steps
SELECT key FROM steps WHERE run_id = :run_id AND status = 'succeeded' ORDER BY number;

-- name: executions_of
SELECT e.*, r.workflow FROM executions e JOIN runs r ON r.id = e.run_id WHERE e.run_id = :run_id ORDER BY e.number;

-- name: steps_of
SELECT s.*, r.workflow, e.version, e.reason, p.key AS parent_key
FROM steps s JOIN runs r ON r.id = s.run_id
JOIN executions e ON e.run_id = s.run_id AND e.number = s.execution
LEFT JOIN steps p ON p.run_id = s.run_id AND p.number = s.parent
WHERE s.run_id = :run_id ORDER BY s.number;

-- name: attempts_of
SELECT a.*, s.execution, s.key, s.agent, r.workflow, e.version, e.reason
FROM attempts a JOIN steps s ON s.run_id = a.run_id AND s.number = a.step
JOIN runs r ON r.id = a.run_id
JOIN executions e ON e.run_id = s.run_id AND e.number = s.execution
WHERE a.run_id = :run_id ORDER BY a.step, a.turn, a.number;

-- name: notes_of
SELECT n.*, r.workflow FROM notes n JOIN runs r ON r.id = n.run_id WHERE n.run_id = :run_id ORDER BY n.seq;

-- name: add_totals!
-- DIFFERS: one statement a batch, its last before COMMIT; the rows are locked in the order of the select.
INSERT INTO totals (worker, metric, labels, value)
SELECT :worker, t.metric, t.labels, t.value
FROM unnest(CAST(:metrics AS text[]), CAST(:labels AS text[]), CAST(:values AS numeric[])) AS t (metric, labels, value)
ORDER BY t.metric COLLATE "C", t.labels COLLATE "C"
ON CONFLICT (worker, metric, labels) DO UPDATE SET value = totals.value + excluded.value;

-- name: owe!
INSERT INTO outbox (owner, id, at, run_id, spans) VALUES (:owner, :id, :at, :run_id, :spans);

-- name: delivered
-- DIFFERS: says which rows were still this owner's: only those are counted.
DELETE FROM outbox WHERE owner = :owner AND id = ANY(:ids) RETURNING id;

-- name: owed_after
SELECT id, at, run_id, spans FROM outbox WHERE owner = :owner AND id > :after ORDER BY id LIMIT :limit;

-- name: adopt_outbox
-- DIFFERS: rows of dead owners become this one's, numbered on; two adopters never take the same row.
WITH orphans AS (
    SELECT x.owner, x.id FROM outbox x
    WHERE NOT EXISTS (
        SELECT FROM owners o
        WHERE o.id = x.owner AND o.heartbeat > clock_timestamp() - make_interval(secs => :lease_s)
    )
    ORDER BY x.owner, x.id LIMIT :limit FOR UPDATE OF x SKIP LOCKED
), numbered AS (
    SELECT owner, id, row_number() OVER (ORDER BY owner, id) AS place FROM orphans
)
UPDATE outbox x SET owner = :owner, id = :last + n.place
FROM numbered n WHERE x.owner = n.owner AND x.id = n.id
RETURNING x.id;

-- name: batch_id$
SELECT CAST(pg_current_xact_id() AS text);

-- name: what_became_of$
-- DIFFERS: after a connection was lost at COMMIT: committed, aborted, or still in progress.
SELECT pg_xact_status(CAST(:batch AS xid8));
