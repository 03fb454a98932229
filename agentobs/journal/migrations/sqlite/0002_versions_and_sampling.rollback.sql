DROP TABLE withheld;
ALTER TABLE executions DROP COLUMN workflow_version;
