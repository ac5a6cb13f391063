//! Frames: a fixed header that says what follows and how long it is, then the bytes.
//!
//! Numbers are little-endian, fp32 payloads are the memory of the machine; both ends are little-endian by the check
//! below.

use std::io::{self, Read, Write};

const _: () = assert!(
    cfg!(target_endian = "little"),
    "fp32 payloads are sent as they lie in memory"
);

/// Bytes of a header.
const HEADER: usize = 32;
/// Begins every header; tells a peer from a stranger or another version.
const MAGIC: [u8; 3] = *b"mdl";

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// First message of a connection, in both directions.
    Hello = 1,
    /// Answer to a hello that is not accepted; a text.
    Refused = 2,
    /// Says that the sender lives.
    Ping = 3,
    /// A message of the membership.
    Control = 4,
    /// A partial sum.
    Partial = 5,
    /// What a rank's lanes contribute to everyone.
    Share = 6,
    /// The sender needs nothing more and is about to leave.
    Bye = 7,
    /// A piece of the state, for a rank that joins.
    State = 8,
    /// The sender has taken a piece in.
    Taken = 9,
    /// How gradients are to travel in this generation.
    Road = 10,
}

impl Kind {
    fn read(byte: u8) -> Option<Self> {
        let all = [
            Self::Hello,
            Self::Refused,
            Self::Ping,
            Self::Control,
            Self::Partial,
            Self::Share,
            Self::Bye,
            Self::State,
            Self::Taken,
            Self::Road,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Names a frame: with its sender, what a receiver waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// What it is.
    pub kind: Kind,
    /// Exchange it belongs to: grows with every step, and with every step that is redone.
    pub exchange: u64,
    /// Slice.
    pub slice: u32,
    /// First lane of the subtree.
    pub first: u32,
    /// Lanes of the subtree.
    pub lanes: u32,
}

impl Tag {
    /// A tag of a frame that belongs to no exchange.
    pub const fn plain(kind: Kind) -> Self {
        Self {
            kind,
            exchange: 0,
            slice: 0,
            first: 0,
            lanes: 0,
        }
    }
}

/// Writes a frame.
///
/// # Errors
/// Those of the writer; `InvalidInput` for a payload that is too long for the header.
pub fn write(out: &mut impl Write, tag: Tag, payload: &[u8]) -> io::Result<()> {
    let Ok(len) = u32::try_from(payload.len()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "payload of 4 GiB or more"));
    };
    let mut header = [0_u8; HEADER];
    header[0..3].copy_from_slice(&MAGIC);
    header[3] = tag.kind as u8;
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..16].copy_from_slice(&tag.exchange.to_le_bytes());
    header[16..20].copy_from_slice(&tag.slice.to_le_bytes());
    header[20..24].copy_from_slice(&tag.first.to_le_bytes());
    header[24..28].copy_from_slice(&tag.lanes.to_le_bytes());
    out.write_all(&header)?;
    out.write_all(payload)?;
    out.flush()
}

/// Reads a frame of at most `limit` bytes of payload.
///
/// # Errors
/// Those of the reader; `InvalidData` for what is not a frame, or a longer one (before anything is allocated).
pub fn read(input: &mut impl Read, limit: usize) -> io::Result<(Tag, Vec<u8>)> {
    let mut header = [0_u8; HEADER];
    input.read_exact(&mut header)?;
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let kind = (header[0..3] == MAGIC).then(|| Kind::read(header[3])).flatten();
    let Some(kind) = kind else {
        return Err(invalid("not a frame of this version".into()));
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let tag = Tag {
        kind,
        exchange: u64::from(word(8)) | u64::from(word(12)) << 32,
        slice: word(16),
        first: word(20),
        lanes: word(24),
    };
    let len = word(4) as usize;
    if len > limit {
        return Err(invalid(format!("a frame of {len} bytes; at most {limit} are expected")));
    }
    let mut payload = Vec::with_capacity(len);
    if input.take(len as u64).read_to_end(&mut payload)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((tag, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag {
        kind: Kind::Partial,
        exchange: 1 << 40,
        slice: 3,
        first: 4,
        lanes: 2,
    };

    fn written(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, TAG, payload).unwrap();
        bytes
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let bytes = written(&[1, 2, 3]);
        assert_eq!(read(&mut bytes.as_slice(), 3).unwrap(), (TAG, vec![1, 2, 3]));
    }

    #[test]
    fn a_longer_frame_than_expected_is_refused_by_its_header_alone() {
        let bytes = written(&[0; 100]);
        let error = read(&mut &bytes[..HEADER], 99).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_frame_that_ends_early_is_refused() {
        let bytes = written(&[1, 2, 3]);
        let error = read(&mut &bytes[..HEADER + 2], 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_not_a_frame_is_refused() {
        let error = read(&mut &b"GET / HTTP/1.1\r\nHost: medley\r\n\r\n"[..], 100).unwrap_err();
        assert!(error.to_string().contains("not a frame"), "{error}");
    }
}
