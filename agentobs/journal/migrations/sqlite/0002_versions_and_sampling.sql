-- The version that a workflow's code calls itself, and the runs whose spans sampling does not owe (docs/adr/0009).
-- depends: 0001_journal

ALTER TABLE executions ADD COLUMN workflow_version TEXT;

-- No column of runs: it would stand behind their inputs and outputs, and each of their units reads it.
CREATE TABLE withheld (
    run_id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;
