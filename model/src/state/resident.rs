//! A state on a device.

use super::State;
use super::bytes::{HEADER, header, of_header};
use super::commit::Held;
use super::places::{IDENTITIES, Places};
use crate::blip::{Blip, Seen};
use crate::device::{Buffer, Device, DeviceError, Fetcher, Mark, OwnParameters, Span, SpanMut};
use crate::loss::itc::UNKNOWN;
use crate::ops::digest::digest;
use std::ops::Range;

/// A state on a device: steps read it there and commit to it there. Its canonical bytes are those of the [`State`] that
/// [`store`](Self::store) would make. Step, queue position and the queued identities are the process's.
#[derive(Debug)]
pub struct Resident {
    device: Device,
    step: u64,
    queue_next: u64,
    params: OwnParameters,
    m: Buffer,
    v: Buffer,
    ema: OwnParameters,
    image_queue: Buffer,
    text_queue: Buffer,
    queued_identities: Vec<u64>,
}

impl Resident {
    /// All zeros, to be loaded into.
    pub fn zeros(blip: &Blip, device: &Device) -> Self {
        let queue = (blip.model.queue * blip.model.embed_dim) as usize;
        let (student, momentum) = (blip.student_layout.len(), blip.momentum_layout.len());
        Self {
            device: device.clone(),
            step: 0,
            queue_next: 0,
            params: OwnParameters::zeros(student, device),
            m: device.buffer(student),
            v: device.buffer(student),
            ema: OwnParameters::zeros(momentum, device),
            image_queue: device.buffer(queue),
            text_queue: device.buffer(queue),
            queued_identities: vec![UNKNOWN; blip.model.queue as usize],
        }
    }

    /// A copy of the state.
    pub fn of(state: &State, device: &Device) -> Self {
        Self {
            device: device.clone(),
            step: state.step,
            queue_next: state.queue_next,
            params: OwnParameters::copy(&state.params, device),
            m: device.upload(&state.m),
            v: device.upload(&state.v),
            ema: OwnParameters::copy(&state.ema, device),
            image_queue: device.upload(&state.image_queue),
            text_queue: device.upload(&state.text_queue),
            queued_identities: state.queued_identities.clone(),
        }
    }

    /// Takes over a state of the same model.
    pub fn load(&mut self, state: &State) {
        self.params.write(&state.params, &self.device);
        self.ema.write(&state.ema, &self.device);
        let parts = [
            (&state.m, &mut self.m),
            (&state.v, &mut self.v),
            (&state.image_queue, &mut self.image_queue),
            (&state.text_queue, &mut self.text_queue),
        ];
        for (from, to) in parts {
            self.device.write(from, to.span_mut());
        }
        self.queued_identities.clone_from(&state.queued_identities);
        (self.step, self.queue_next) = (state.step, state.queue_next);
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Steps that were committed.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What a lane reads of it.
    pub fn seen(&self) -> Seen<'_> {
        Seen {
            params: (&self.params).into(),
            ema: (&self.ema).into(),
            image_queue: self.image_queue.span(),
            text_queue: self.text_queue.span(),
            queued_identities: &self.queued_identities,
        }
    }

    /// The learned temperature, after all that was asked of the device before. Waits.
    pub fn temperature(&self, blip: &Blip) -> f32 {
        let at = blip.student_layout.entry(blip.temperature).offset;
        self.device.to_vec(self.params.exact().range(at..at + 1))[0]
    }

    /// Copies it to a state of the same model, after all that was asked of the device.
    ///
    /// # Errors
    /// [`DeviceError`] if the device failed since the last check; the copy is worthless then.
    pub fn store(&self, state: &mut State) -> Result<(), DeviceError> {
        let parts: [(Span, &mut [f32]); 6] = [
            (self.params.exact(), &mut state.params),
            (self.m.span(), &mut state.m),
            (self.v.span(), &mut state.v),
            (self.ema.exact(), &mut state.ema),
            (self.image_queue.span(), &mut state.image_queue),
            (self.text_queue.span(), &mut state.text_queue),
        ];
        for (from, to) in parts {
            self.device.read(from, to);
        }
        state.queued_identities.clone_from(&self.queued_identities);
        (state.step, state.queue_next) = (self.step, self.queue_next);
        self.device.check()
    }

    pub(super) fn held(&mut self) -> Held<'_> {
        Held {
            device: &self.device,
            step: &mut self.step,
            queue_next: &mut self.queue_next,
            params: self.params.both_mut(),
            m: self.m.span_mut(),
            v: self.v.span_mut(),
            ema: self.ema.both_mut(),
            image_queue: self.image_queue.span_mut(),
            text_queue: self.text_queue.span_mut(),
            queued_identities: &mut self.queued_identities,
        }
    }

    /// Parameters and both moments.
    pub(super) fn trained(&self) -> [Span<'_>; 3] {
        [self.params.exact(), self.m.span(), self.v.span()]
    }
}

/// Canonical bytes. What lies on the device is asked for by ranges: no more of it is copied than is wanted.
impl Resident {
    pub(super) fn places(&self) -> Places {
        let numbers = self.numbers().map(|numbers| numbers.len());
        Places::new(numbers, self.queued_identities.len())
    }

    /// See [`State::num_bytes`].
    pub fn num_bytes(&self) -> usize {
        self.places().num_bytes()
    }

    /// See [`State::pieces`].
    pub fn pieces(&self, most: usize) -> Vec<Range<usize>> {
        self.places().pieces(most)
    }

    /// See [`State::replaced_by`].
    pub fn replaced_by(&self, samples: usize) -> Vec<Range<usize>> {
        self.places().replaced_by(self.queue_next, samples)
    }

    /// Calls `f` with the canonical bytes of `range` as they are behind `mark`, in order and piece by piece, while the device goes on.
    ///
    /// # Errors
    /// [`DeviceError`]: what `f` was given is worthless then.
    pub fn for_bytes(
        &self,
        (fetcher, mark): (&mut Fetcher, &Mark),
        range: Range<usize>,
        mut f: impl FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        let (numbers, own) = (self.numbers(), self.own_bytes());
        for (place, bytes) in self.places().within(range) {
            match place {
                0 => f(&own.0[bytes]),
                IDENTITIES => f(&own.1[bytes]),
                _ => fetch((&mut *fetcher, mark), numbers[place - 1], bytes, &mut f)?,
            }
        }
        Ok(())
    }

    /// Takes over canonical bytes, the first of which is the `offset`-th of the state. They must lie within it, and no number may be
    /// cut. The device knows of them once all were [`taken`](Self::taken).
    pub fn write_bytes(&mut self, offset: usize, bytes: &[u8]) {
        let mut header = header(self.step, self.queue_next);
        let device = self.device.clone();
        let mut rest = bytes;
        for (place, at) in self.places().within(offset..offset + bytes.len()) {
            let (next, behind) = rest.split_at(at.len());
            rest = behind;
            match place {
                0 => header[at].copy_from_slice(next),
                IDENTITIES => bytemuck::cast_slice_mut(&mut self.queued_identities)[at].copy_from_slice(next),
                _ => {
                    assert!(at.start % 4 == 0 && at.end % 4 == 0, "no number is cut");
                    let numbers = self.numbers_mut().into_iter().nth(place - 1);
                    let numbers = numbers.expect("there is such a place");
                    device.write_bytes(next, numbers.range(at.start / 4..at.end / 4));
                }
            }
        }
        (self.step, self.queue_next) = of_header(&header);
    }

    /// The canonical bytes that lie on the device; what is before and behind them is the process's.
    pub fn bytes_there(&self) -> Range<usize> {
        let places = self.places();
        places.start(1)..places.start(IDENTITIES)
    }

    /// The numbers of these canonical bytes where they lie on the device.
    ///
    /// # Panics
    /// If they do not lie there, or in two places of it.
    pub fn span(&self, bytes: &Range<usize>) -> Span<'_> {
        let within = self.places().within(bytes.clone()).collect::<Vec<_>>();
        let [(place @ 1..IDENTITIES, at)] = within.as_slice() else {
            panic!("bytes {bytes:?} are not in one place on the device");
        };
        self.numbers()[place - 1].range(at.start / 4..at.end / 4)
    }

    /// The same of several ranges, which ascend and do not overlap, to be written; [`taken`](Self::taken) comes behind the last.
    ///
    /// # Panics
    /// As [`span`](Self::span).
    pub fn spans_mut(&mut self, ranges: &[Range<usize>]) -> Vec<SpanMut<'_>> {
        let places = self.places();
        let mut spans = Vec::with_capacity(ranges.len());
        for (place, numbers) in (1..).zip(self.numbers_mut()) {
            let (mut rest, mut at) = (numbers, places.start(place));
            for range in &ranges[spans.len()..] {
                if range.start >= places.start(place + 1) {
                    break;
                }
                let (_, from) = rest.split_at((range.start - at) / 4);
                let (span, behind) = from.split_at(range.len() / 4);
                spans.push(span);
                (rest, at) = (behind, range.end);
            }
        }
        assert_eq!(spans.len(), ranges.len(), "all ranges lie on the device");
        spans
    }

    /// Ends taking over bytes: what is rounded follows.
    ///
    /// # Errors
    /// [`DeviceError`]: the state is worthless then.
    pub fn taken(&mut self) -> Result<(), DeviceError> {
        self.params.round(&self.device);
        self.ema.round(&self.device);
        self.device.check()
    }

    /// A digest of the canonical bytes of `ranges`, rounded up to whole words, made on the device. It compares with those of other
    /// resident states alone.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn digest(&self, ranges: &[Range<usize>]) -> Result<u64, DeviceError> {
        let (places, numbers, own) = (self.places(), self.numbers(), self.own_bytes());
        let (mut sum, mut runs) = (0_u64, Vec::new());
        for (place, bytes) in ranges.iter().flat_map(|range| places.within(range.clone())) {
            let words = bytes.start / 4..bytes.end.div_ceil(4);
            let first = (places.start(place) / 4 + words.start) as u64;
            let of_own = |own: &[u8]| {
                let words = own[4 * words.start..4 * words.end].as_chunks().0;
                digest(words.iter().map(|word| u32::from_le_bytes(*word)), first)
            };
            sum = sum.wrapping_add(match place {
                0 => of_own(&own.0),
                IDENTITIES => of_own(own.1),
                _ => {
                    runs.push((numbers[place - 1].range(words), first));
                    0
                }
            });
        }
        let sum = sum.wrapping_add(self.device.digest(&runs));
        self.device.check().map(|()| sum)
    }

    /// What lies on the device, in canonical order.
    pub(super) fn numbers(&self) -> [Span<'_>; 6] {
        [
            self.params.exact(),
            self.m.span(),
            self.v.span(),
            self.ema.exact(),
            self.image_queue.span(),
            self.text_queue.span(),
        ]
    }

    /// The same, to be written; what is rounded does not follow.
    fn numbers_mut(&mut self) -> [SpanMut<'_>; 6] {
        [
            self.params.both_mut().0,
            self.m.span_mut(),
            self.v.span_mut(),
            self.ema.both_mut().0,
            self.image_queue.span_mut(),
            self.text_queue.span_mut(),
        ]
    }

    /// What is the process's: header and identities.
    pub(super) fn own_bytes(&self) -> ([u8; HEADER], &[u8]) {
        let header = header(self.step, self.queue_next);
        (header, bytemuck::cast_slice(&self.queued_identities))
    }
}

/// Calls `f` with these bytes of what lies on a device; the first or last number may be cut.
pub(super) fn fetch(
    (fetcher, mark): (&mut Fetcher, &Mark),
    from: Span,
    bytes: Range<usize>,
    f: &mut impl FnMut(&[u8]),
) -> Result<(), DeviceError> {
    let words = bytes.start / 4..bytes.end.div_ceil(4);
    let mut at = 4 * words.start;
    fetcher.fetch(mark, from.range(words), &mut |piece| {
        let end = at + piece.len();
        f(&piece[bytes.start.max(at) - at..bytes.end.min(end) - at]);
        at = end;
    })
}
