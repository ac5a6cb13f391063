-- Who may call the API. Only a digest of each token is kept: whoever reads this table cannot use it.
CREATE TABLE tokens (
    hash bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    role text NOT NULL CHECK (role IN ('viewer', 'submitter', 'operator', 'admin', 'node')),
    name text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE tokens IS 'Bearer tokens of the API';
COMMENT ON COLUMN tokens.hash IS 'BLAKE3 of the token as it is sent';
COMMENT ON COLUMN tokens.role IS 'What the token allows';
COMMENT ON COLUMN tokens.name IS 'Who or what holds it, for people; not unique';
COMMENT ON COLUMN tokens.created_at IS 'When it was made';
