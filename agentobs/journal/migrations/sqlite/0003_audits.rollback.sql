DELETE FROM totals WHERE worker = '' AND metric = 'spans_not_requested';
DROP TABLE audits;
