-- Jobs, the stages of their graphs and the epochs of training stages.
CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    version bigint NOT NULL DEFAULT 1,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('pretrain', 'bootstrap')),
    spec jsonb NOT NULL,
    priority integer NOT NULL,
    state text NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    reason text NOT NULL DEFAULT '',
    submitted_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

COMMENT ON TABLE jobs IS 'What users submitted';
COMMENT ON COLUMN jobs.id IS 'Identity; ordered by time';
COMMENT ON COLUMN jobs.version IS 'Grows with every transition of the job or one of its stages: whoever decides on an older one has to decide again';
COMMENT ON COLUMN jobs.name IS 'Name given by the user';
COMMENT ON COLUMN jobs.kind IS 'What the job does';
COMMENT ON COLUMN jobs.spec IS 'The completed spec';
COMMENT ON COLUMN jobs.priority IS 'Jobs with a higher priority are placed first';
COMMENT ON COLUMN jobs.state IS 'State';
COMMENT ON COLUMN jobs.reason IS 'Why it failed; empty otherwise';
COMMENT ON COLUMN jobs.submitted_at IS 'When it was submitted';
COMMENT ON COLUMN jobs.finished_at IS 'When it reached a final state';

CREATE INDEX jobs_active ON jobs (submitted_at) WHERE state IN ('queued', 'running');

CREATE TABLE stages (
    id uuid PRIMARY KEY,
    job uuid NOT NULL REFERENCES jobs,
    position integer NOT NULL,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('index', 'pretrain', 'captioner', 'filter', 'capfilt', 'evaluate')),
    round integer NOT NULL CHECK (round >= 0),
    needs uuid[] NOT NULL,
    state text NOT NULL
        CHECK (state IN ('blocked', 'waiting', 'starting', 'running', 'done', 'failed', 'cancelled')),
    reason text NOT NULL DEFAULT '',
    generation bigint NOT NULL DEFAULT 0,
    membership jsonb,
    setbacks integer NOT NULL DEFAULT 0,
    setback_progress bigint NOT NULL DEFAULT 0,
    total_steps bigint,
    steps_per_epoch bigint,
    metrics_through_step bigint NOT NULL DEFAULT 0,
    evaluation jsonb,
    details jsonb,
    started_at timestamptz,
    finished_at timestamptz,
    UNIQUE (job, position),
    UNIQUE (job, name),
    CHECK ((membership IS NOT NULL) = (state IN ('starting', 'running')))
);

COMMENT ON TABLE stages IS 'Nodes of the jobs'' graphs: the units that are scheduled';
COMMENT ON COLUMN stages.id IS 'Identity';
COMMENT ON COLUMN stages.job IS 'The job';
COMMENT ON COLUMN stages.position IS 'Place in topological order';
COMMENT ON COLUMN stages.name IS 'Name within the job, such as pretrain-0';
COMMENT ON COLUMN stages.kind IS 'What it does';
COMMENT ON COLUMN stages.round IS 'Bootstrap round it belongs to; the dataset version it reads';
COMMENT ON COLUMN stages.needs IS 'Stages that must be done before';
COMMENT ON COLUMN stages.state IS 'State';
COMMENT ON COLUMN stages.reason IS 'Why it failed, or waits; empty otherwise';
COMMENT ON COLUMN stages.generation IS 'Fencing number of the last membership; grows with each';
COMMENT ON COLUMN stages.membership IS 'The present generation: seats, secret, the checkpoint it resumes from, members once all listen';
COMMENT ON COLUMN stages.setbacks IS 'Generations in a row that ended without progress';
COMMENT ON COLUMN stages.setback_progress IS 'Checkpointed step, or finished tasks, when the last generation ended';
COMMENT ON COLUMN stages.total_steps IS 'Steps of a training stage, once its dataset version is known';
COMMENT ON COLUMN stages.steps_per_epoch IS 'Steps of one pass over its dataset version';
COMMENT ON COLUMN stages.metrics_through_step IS 'Steps whose metrics are stored: the next row wanted has this step';
COMMENT ON COLUMN stages.evaluation IS 'Figures of an evaluation';
COMMENT ON COLUMN stages.details IS 'Object with everything the figures were computed from';
COMMENT ON COLUMN stages.started_at IS 'When it was first placed';
COMMENT ON COLUMN stages.finished_at IS 'When it reached a final state';

CREATE TABLE epochs (
    stage uuid NOT NULL REFERENCES stages,
    epoch bigint NOT NULL,
    first_step bigint NOT NULL,
    steps bigint NOT NULL CHECK (steps > 0),
    done boolean NOT NULL DEFAULT false,
    mean_itc double precision,
    mean_itm double precision,
    mean_lm double precision,
    PRIMARY KEY (stage, epoch)
);

COMMENT ON TABLE epochs IS 'Passes of a training stage over its dataset version';
COMMENT ON COLUMN epochs.stage IS 'The stage';
COMMENT ON COLUMN epochs.epoch IS 'Number, from 0';
COMMENT ON COLUMN epochs.first_step IS 'First step';
COMMENT ON COLUMN epochs.steps IS 'Number of steps; the last epoch may be cut short';
COMMENT ON COLUMN epochs.done IS 'Whether all its steps are committed';
COMMENT ON COLUMN epochs.mean_itc IS 'Mean contrastive loss over its stored steps';
COMMENT ON COLUMN epochs.mean_itm IS 'Mean matching loss over its stored steps';
COMMENT ON COLUMN epochs.mean_lm IS 'Mean language-modelling loss over its stored steps';
