-- Operators take nodes out of service.
ALTER TABLE nodes
    ADD COLUMN duty text NOT NULL DEFAULT 'serving' CHECK (duty IN ('serving', 'cordoned', 'draining')),
    ADD COLUMN drain_by timestamptz CHECK (drain_by IS NULL OR duty = 'draining');

COMMENT ON COLUMN nodes.duty IS 'Whether it takes work: all, nothing new, or nothing at all';
COMMENT ON COLUMN nodes.drain_by IS 'When a node that is drained gives up what nobody else can take; null: never';
