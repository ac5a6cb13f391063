-- What the tensors are that begin in a part of a checkpoint.
ALTER TABLE checkpoint_parts ADD COLUMN tensors jsonb;

COMMENT ON COLUMN checkpoint_parts.tensors IS 'The object with the hashes of the tensors that begin in it: key, BLAKE3, size';
