DROP TABLE outbox;
DROP TABLE totals;
DROP TABLE notes;
DROP TABLE attempts;
DROP TABLE steps;
DROP TABLE executions;
DROP TABLE run_tags;
DROP TABLE runs;
