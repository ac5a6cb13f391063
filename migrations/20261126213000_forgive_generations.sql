-- A job that failed is retried: what failed before that is forgiven.
ALTER TABLE stages ADD COLUMN forgiven bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN stages.forgiven IS 'The last generation before the job was retried: failures of its ranks, and of those before it, count no more';
