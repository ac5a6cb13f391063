-- What happened: metrics of every step, events in words, and the answers to repeated requests.
CREATE TABLE metrics (
    stage uuid NOT NULL REFERENCES stages,
    step bigint NOT NULL,
    epoch bigint NOT NULL,
    itc double precision NOT NULL,
    itm double precision NOT NULL,
    lm double precision NOT NULL,
    lr double precision NOT NULL,
    alpha double precision NOT NULL,
    temperature double precision NOT NULL,
    grad_norm double precision NOT NULL,
    PRIMARY KEY (stage, step)
);

COMMENT ON TABLE metrics IS 'Metrics of the mathematics, one row per committed step';
COMMENT ON COLUMN metrics.stage IS 'The stage';
COMMENT ON COLUMN metrics.step IS 'The step, from 0';
COMMENT ON COLUMN metrics.epoch IS 'Its epoch';
COMMENT ON COLUMN metrics.itc IS 'Image-text contrastive loss';
COMMENT ON COLUMN metrics.itm IS 'Image-text matching loss';
COMMENT ON COLUMN metrics.lm IS 'Language-modelling loss';
COMMENT ON COLUMN metrics.lr IS 'Learning rate';
COMMENT ON COLUMN metrics.alpha IS 'Weight of the momentum targets';
COMMENT ON COLUMN metrics.temperature IS 'Temperature after the step';
COMMENT ON COLUMN metrics.grad_norm IS 'Norm of the mean gradient';

CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    job uuid REFERENCES jobs,
    stage uuid REFERENCES stages,
    node uuid REFERENCES nodes,
    kind text NOT NULL,
    message text NOT NULL
);

COMMENT ON TABLE events IS 'What happened and why, in words';
COMMENT ON COLUMN events.id IS 'Grows by time';
COMMENT ON COLUMN events.at IS 'When';
COMMENT ON COLUMN events.job IS 'The job';
COMMENT ON COLUMN events.stage IS 'The stage';
COMMENT ON COLUMN events.node IS 'The node';
COMMENT ON COLUMN events.kind IS 'What happened, as machines read it';
COMMENT ON COLUMN events.message IS 'What happened and why, as people read it';

CREATE INDEX events_of_job ON events (job, id);

CREATE TABLE idempotency_keys (
    key text PRIMARY KEY,
    body_blake3 bytea NOT NULL CHECK (octet_length(body_blake3) = 32),
    job uuid NOT NULL REFERENCES jobs,
    used_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE idempotency_keys IS 'Submissions by the key their client gave them: repeating one makes no second job';
COMMENT ON COLUMN idempotency_keys.key IS 'Holder of the token and key, as one';
COMMENT ON COLUMN idempotency_keys.body_blake3 IS 'BLAKE3 of the body that came with it';
COMMENT ON COLUMN idempotency_keys.job IS 'The job that was made';
COMMENT ON COLUMN idempotency_keys.used_at IS 'When it was first used';
