DROP TABLE reused_steps;
DROP TABLE forks;
