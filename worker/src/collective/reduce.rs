//! A step's collective: the sum of all lanes' gradients on every rank, and what each lane contributes to all.
//!
//! [`Local`] adds a rank's own lanes as they are finished, so that few gradients exist at a time; [`total`] carries out
//! the rank's [`route`](super::route) on what is left, over the mesh (between devices, [`underway`](super::underway) does both);
//! [`share`] gives everyone everyone's features and losses.
//!
//! Sums lie where [`Gradients`] say, and additions are the device's: one fp32 addition has the same bits everywhere.

use super::deal::Deal;
use super::gradients::Gradients;
use super::rounds::{Round, rounds};
use super::route::{Op, Partial, Slices, route};
use super::tcp::{Kind, Lost, Mesh, Tag, mesh::Limits};
use super::tree::{Subtree, fold};
use bytes::Bytes;
use medley_model::device::{Buffer, Device, Span, SpanMut};
use medley_model::tape::Gradient;
use std::collections::BTreeMap;

/// What a rank does in every step: a function of the deal and of the gradient's size.
#[derive(Debug, Clone)]
pub struct Plan {
    rank: u32,
    root: Subtree,
    pub(super) own: Vec<Subtree>,
    pub(super) slices: Slices,
    ops: Vec<Op>,
    /// Most partial sums of one slice that come from one peer.
    most_partials: usize,
}

impl Plan {
    /// The plan of `rank` for gradients of `len` elements.
    pub fn new(deal: &Deal, rank: u32, len: usize) -> Self {
        let slices = Slices::new(deal, len);
        let held_by = |node: &Vec<u32>| node.iter().map(|rank| deal.subtrees[*rank as usize].len()).sum();
        Self {
            rank,
            most_partials: deal.nodes.iter().map(held_by).max().unwrap_or(0),
            root: deal.root,
            own: deal.subtrees[rank as usize].clone(),
            slices,
            ops: route(deal, slices, rank),
        }
    }

    /// The same in rounds that all ranks of `deal` go through together.
    pub fn rounds(&self, deal: &Deal) -> Vec<Round> {
        rounds(deal, self.slices).swap_remove(self.rank as usize)
    }

    /// What peers may send in one step, given the bytes that one of them shares.
    pub fn limits(&self, gradient_len: usize, share_bytes: usize) -> Limits {
        let slice_bytes = self.slices.range(0).len() * size_of::<f32>();
        let gradient_bytes = gradient_len * size_of::<f32>();
        // Partial sums and the total; and a peer may be one step ahead.
        let partials = self.most_partials + 1;
        Limits {
            frame_bytes: slice_bytes.max(share_bytes).max(64 << 10),
            waiting_bytes: 2 * (gradient_bytes * partials + share_bytes) + (1 << 20),
        }
    }
}

/// The sums of a rank's own subtrees, in the order of the plan.
#[derive(Debug)]
pub struct Local(Vec<Buffer>);

impl Local {
    /// Runs `lane` for each own lane in order; it fills the buffer it is given with the lane's gradient.
    ///
    /// One buffer waits per finished subtree, and at most one per level of the subtree that is being folded.
    ///
    /// # Errors
    /// The first error of `lane`.
    pub fn collect<E>(
        plan: &Plan,
        gradients: &mut Gradients,
        mut lane: impl FnMut(u32, Gradient) -> Result<(), E>,
    ) -> Result<Self, E> {
        let sums = plan.own.iter().map(|subtree| sum_of(*subtree, gradients, &mut lane));
        sums.collect::<Result<_, _>>().map(Self)
    }
}

/// The sum of a subtree's lanes.
///
/// # Errors
/// The first error of `lane`.
pub(super) fn sum_of<E>(
    subtree: Subtree,
    gradients: &mut Gradients,
    lane: &mut impl FnMut(u32, Gradient) -> Result<(), E>,
) -> Result<Buffer, E> {
    let device = gradients.device().clone();
    let gradients = std::cell::RefCell::new(gradients);
    let mut leaf = |number| {
        let mut gradient = gradients.borrow_mut().take();
        lane(number, gradient.span_mut().into()).map(|()| gradient)
    };
    let mut add = |mut left: Buffer, right: Buffer| {
        device.add(right.span(), left.span_mut());
        gradients.borrow_mut().give(right);
        left
    };
    fold(subtree, &mut leaf, &mut add)
}

/// Turns the local sums into the sum over all lanes, the same bits on every rank, over the mesh: where there are peers, they lie in
/// the memory of the process. `exchange` grows with every step, and with every step that is redone.
///
/// # Errors
/// [`Lost`] when a peer does not deliver.
pub fn total(plan: &Plan, local: Local, exchange: u64, mesh: &Mesh, gradients: &mut Gradients) -> Result<Buffer, Lost> {
    let mut sums = Sums::new(plan, gradients.device().clone(), local.0);
    let tag = |what: Partial| Tag {
        kind: Kind::Partial,
        exchange,
        slice: what.slice,
        first: what.subtree.first,
        lanes: what.subtree.lanes,
    };
    for op in &plan.ops {
        match op {
            Op::Send { to, what } => {
                // What was made to be sent is not needed here any more.
                let payload = match sums.made.remove(what) {
                    Some(made) => Bytes::from_owner(Floats(made)),
                    None => Bytes::copy_from_slice(bytemuck::cast_slice(sums.value(*what).host())),
                };
                for to in to {
                    mesh.send(*to, tag(*what), payload.clone());
                }
            }
            Op::Receive { from, what } => {
                let payload = mesh.receive(*from, tag(*what))?;
                sums.take_in(*from, *what, &payload)?;
            }
            Op::Add(what) => sums.make(*what),
        }
    }
    Ok(sums.into_total(gradients))
}

/// The partial sums of a rank in one execution of its plan.
pub(super) struct Sums<'a> {
    pub(super) plan: &'a Plan,
    /// What adds.
    pub(super) device: Device,
    pub(super) own: Vec<Buffer>,
    /// Partial sums that were received or made here, except totals.
    pub(super) made: BTreeMap<Partial, Buffer>,
}

impl<'a> Sums<'a> {
    pub(super) fn new(plan: &'a Plan, device: Device, own: Vec<Buffer>) -> Self {
        Self {
            plan,
            device,
            own,
            made: BTreeMap::new(),
        }
    }

    /// left + right; a value that was received or made here is used up. fp32 addition commutes, so it does not matter
    /// which of the two holds the result.
    pub(super) fn make(&mut self, what: Partial) {
        let (left, right) = what.subtree.children().expect("only inner nodes are made");
        let child = |subtree| Partial { subtree, ..what };
        let (into, other) = if self.made.contains_key(&child(left)) {
            (child(left), child(right))
        } else {
            (child(right), child(left))
        };
        let mut sum = self.made.remove(&into).unwrap_or_else(|| self.copy(into));
        self.device.add(self.value(other), sum.span_mut());
        self.made.remove(&other);
        self.keep(what, sum);
    }

    fn copy(&self, what: Partial) -> Buffer {
        let value = self.value(what);
        let mut copy = self.device.buffer(value.len());
        self.device.copy(value, copy.span_mut());
        copy
    }

    pub(super) fn value(&self, what: Partial) -> Span<'_> {
        if let Some(value) = self.made.get(&what) {
            return value.span();
        }
        let holds = |own: &Subtree| *own == what.subtree || what.subtree == self.plan.root;
        let at = self
            .plan
            .own
            .iter()
            .position(holds)
            .expect("a plan uses only what it has");
        // Totals are kept in the first buffer.
        let at = if what.subtree == self.plan.root { 0 } else { at };
        self.own[at].span().range(self.plan.slices.range(what.slice))
    }

    /// Takes in what a peer has sent as bytes.
    fn take_in(&mut self, from: u32, what: Partial, payload: &[u8]) -> Result<(), Lost> {
        let len = self.plan.slices.range(what.slice).len();
        let expected = len * size_of::<f32>();
        if payload.len() != expected {
            let why = format!("its partial sum has {} bytes instead of {expected}", payload.len());
            return Err(Lost { rank: from, why });
        }
        let fill = |place: SpanMut| bytemuck::cast_slice_mut(place.host()).copy_from_slice(payload);
        if what.subtree == self.plan.root {
            fill(self.place_of_total(what.slice));
        } else {
            let mut buffer = self.device.buffer(len);
            fill(buffer.span_mut());
            self.made.insert(what, buffer);
        }
        Ok(())
    }

    pub(super) fn keep(&mut self, what: Partial, value: Buffer) {
        if what.subtree == self.plan.root {
            let device = self.device.clone();
            device.copy(value.span(), self.place_of_total(what.slice));
        } else {
            self.made.insert(what, value);
        }
    }

    /// Every partial sum of a slice was sent or added before its total can exist, so there is room in the first buffer.
    fn place_of_total(&mut self, slice: u32) -> SpanMut<'_> {
        self.own[0].span_mut().range(self.plan.slices.range(slice))
    }

    /// By now the first buffer holds the total: each slice was written there when it became complete.
    pub(super) fn into_total(self, gradients: &mut Gradients) -> Buffer {
        let mut own = self.own.into_iter();
        let total = own.next().expect("every rank has a subtree");
        own.for_each(|buffer| gradients.give(buffer));
        total
    }
}

/// Numbers of the process that are sent as they lie in memory.
struct Floats(Buffer);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self.0.span().host())
    }
}

/// Gives this rank's bytes to everyone and returns everyone's, by rank.
///
/// # Errors
/// [`Lost`] when a peer does not deliver.
pub fn share(own: Vec<u8>, exchange: u64, mesh: &Mesh) -> Result<BTreeMap<u32, Vec<u8>>, Lost> {
    let tag = Tag {
        exchange,
        ..Tag::plain(Kind::Share)
    };
    tell_all(own, tag, mesh)
}

/// As [`share`], under this tag.
///
/// # Errors
/// [`Lost`] when a peer does not deliver.
pub fn tell_all(own: Vec<u8>, tag: Tag, mesh: &Mesh) -> Result<BTreeMap<u32, Vec<u8>>, Lost> {
    let sent = Bytes::from(own.clone());
    mesh.others().for_each(|to| mesh.send(to, tag, sent.clone()));
    let theirs = mesh.others().map(|from| Ok((from, mesh.receive(from, tag)?)));
    let mut all: BTreeMap<u32, Vec<u8>> = theirs.collect::<Result<_, Lost>>()?;
    all.insert(mesh.rank(), own);
    Ok(all)
}

#[cfg(test)]
pub(crate) mod tests;
