-- Forks: from which run and step each began, and which of its steps were answered from there.
-- depends: 0003_audits

-- No columns of runs and steps: they would stand behind inputs and outputs (0002).
CREATE TABLE forks (
    run_id TEXT NOT NULL PRIMARY KEY,
    source TEXT NOT NULL,
    step INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX forks_by_source ON forks (source, run_id);

CREATE TABLE reused_steps (
    run_id TEXT NOT NULL,
    step INTEGER NOT NULL,
    saved_pico INTEGER NOT NULL,
    PRIMARY KEY (run_id, step)
) WITHOUT ROWID;
