-- The records (DESIGN: runs, executions, steps, attempts, notes), the totals and the outbox.
-- Times are nanoseconds since the Unix epoch, costs pico-dollars, texts ASCII-escaped JSON.
-- depends:

CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    workflow TEXT NOT NULL,
    status TEXT NOT NULL,
    version TEXT NOT NULL,
    tags TEXT NOT NULL,
    idempotency_key TEXT,
    request_hash TEXT NOT NULL,
    traceparent TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    error_type TEXT,
    error_message TEXT,
    error_step INTEGER,
    error_agent TEXT,
    epoch INTEGER NOT NULL,
    owner TEXT,
    next_reason TEXT NOT NULL,
    resumed_from INTEGER NOT NULL,
    recoveries INTEGER NOT NULL,
    cancel_requested_at INTEGER,
    first_status TEXT,
    first_ended_at INTEGER,
    first_error_type TEXT,
    seq INTEGER NOT NULL,
    end_seq INTEGER,
    error_detail TEXT,
    input TEXT NOT NULL,
    output TEXT
);
CREATE UNIQUE INDEX runs_by_idempotency_key ON runs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX runs_by_workflow ON runs (workflow, id);
CREATE INDEX runs_by_status ON runs (status, id);
CREATE INDEX runs_by_error_type ON runs (error_type, id) WHERE error_type IS NOT NULL;
CREATE INDEX runs_queued ON runs (workflow, created_at) WHERE status = 'queued';

CREATE TABLE run_tags (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (key, value, run_id)
) WITHOUT ROWID;

CREATE TABLE executions (
    run_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    reason TEXT NOT NULL,
    worker TEXT NOT NULL,
    owner TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    outcome TEXT,
    error_type TEXT,
    reused INTEGER NOT NULL,
    diverged INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    end_seq INTEGER,
    PRIMARY KEY (run_id, number)
) WITHOUT ROWID;

CREATE TABLE steps (
    run_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    execution INTEGER NOT NULL,
    key TEXT NOT NULL,
    branch TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    agent TEXT,
    model TEXT,
    parent INTEGER,
    tool_call_id TEXT,
    status TEXT NOT NULL,
    error_type TEXT,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    seq INTEGER NOT NULL,
    end_seq INTEGER,
    error_detail TEXT,
    input TEXT NOT NULL,
    output TEXT,
    PRIMARY KEY (run_id, number)
);
-- A finished step is never paid twice: at most one succeeded row a key.
CREATE UNIQUE INDEX steps_succeeded ON steps (run_id, key) WHERE status = 'succeeded';

CREATE TABLE attempts (
    run_id TEXT NOT NULL,
    step INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    number INTEGER NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    url TEXT NOT NULL,
    stream INTEGER NOT NULL,
    max_tokens INTEGER NOT NULL,
    effort TEXT,
    started_at INTEGER NOT NULL,
    first_chunk_at INTEGER,
    ended_at INTEGER,
    outcome TEXT,
    http_status INTEGER,
    error_class TEXT,
    request_id TEXT,
    response_id TEXT,
    response_model TEXT,
    stop_reason TEXT,
    usage TEXT NOT NULL,
    input_uncached INTEGER,
    output INTEGER,
    cache_read INTEGER,
    cache_write INTEGER,
    reasoning INTEGER,
    cost_pico INTEGER,
    price_version TEXT,
    reserved_pico INTEGER,
    wait_ns INTEGER NOT NULL,
    not_before INTEGER,
    final INTEGER NOT NULL,
    turn_started_at INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    end_seq INTEGER,
    answer TEXT,
    PRIMARY KEY (run_id, step, turn, number)
);

CREATE TABLE notes (
    run_id TEXT NOT NULL,
    execution INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITHOUT ROWID;

-- Running totals of counters, added to in the transaction that commits the record, never recomputed.
CREATE TABLE totals (
    worker TEXT NOT NULL,
    metric TEXT NOT NULL,
    labels TEXT NOT NULL,
    carry INTEGER NOT NULL, -- times 10^18
    value INTEGER NOT NULL, -- below 10^18
    PRIMARY KEY (worker, metric, labels)
) WITHOUT ROWID;

-- Spans owed to the trace backend, one row a committed unit; taken off once delivered.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    spans TEXT NOT NULL
);
