-- What audits found, and spans that were never asked for: without their number, what is missing could not be told.
-- depends: 0002_versions_and_sampling

CREATE TABLE audits (
    id INTEGER NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL,
    took_ns INTEGER NOT NULL,
    compared TEXT NOT NULL,
    drift TEXT NOT NULL,
    findings TEXT NOT NULL,
    remarks TEXT NOT NULL
);

-- Of earlier versions only this is known: what is due, not owed and was not acknowledged counts as not asked for.
INSERT INTO totals (worker, metric, labels, carry, value)
SELECT '', 'spans_not_requested', '[]', 0, n FROM (
    SELECT
        (SELECT count(*) FROM runs WHERE first_ended_at IS NOT NULL AND id NOT IN (SELECT run_id FROM withheld))
        + (SELECT count(*) FROM executions
            WHERE number > 1 AND ended_at IS NOT NULL AND run_id NOT IN (SELECT run_id FROM withheld))
        + (SELECT count(*) FROM steps WHERE ended_at IS NOT NULL AND run_id NOT IN (SELECT run_id FROM withheld))
        + (SELECT count(*) + coalesce(sum(final), 0) FROM attempts
            WHERE ended_at IS NOT NULL AND run_id NOT IN (SELECT run_id FROM withheld))
        - (SELECT coalesce(sum(json_array_length(spans)), 0) FROM outbox)
        - (SELECT coalesce(sum(value), 0) FROM totals
            WHERE metric = 'agentobs_spans_exported_total' AND labels IN ('["ok"]', '["rejected"]')) AS n
) WHERE n > 0;
