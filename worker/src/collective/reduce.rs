//! A step's collective: the sum of all lanes' gradients on every rank, and what each lane contributes to all.
//!
//! [`Local`] adds a rank's own lanes as they are finished, so that few gradients exist at a time; [`total`] carries out
//! the rank's [`route`](super::route) on what is left; [`share`] gives everyone everyone's features and losses.

use super::deal::Deal;
use super::route::{Op, Partial, Slices, route};
use super::tcp::{Kind, Lost, Mesh, Tag, mesh::Limits};
use super::tree::{Subtree, fold};
use bytes::Bytes;
use medley_model::flat::{Flat, Pool};
use std::collections::BTreeMap;

/// What a rank does in every step: a function of the deal and of the gradient's size.
#[derive(Debug, Clone)]
pub struct Plan {
    root: Subtree,
    own: Vec<Subtree>,
    slices: Slices,
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
            most_partials: deal.nodes.iter().map(held_by).max().unwrap_or(0),
            root: deal.root,
            own: deal.subtrees[rank as usize].clone(),
            slices,
            ops: route(deal, slices, rank),
        }
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
pub struct Local(Vec<Flat>);

impl Local {
    /// Runs `lane` for each own lane in order; it fills the buffer it is given with the lane's gradient.
    ///
    /// `pool` must serve nothing but gradients, so that what lies between a buffer's entries stays as it began: zero.
    /// One buffer waits per finished subtree, and at most one per level of the subtree that is being folded.
    ///
    /// # Errors
    /// The first error of `lane`.
    pub fn collect<E>(
        plan: &Plan,
        len: usize,
        pool: &mut Pool,
        mut lane: impl FnMut(u32, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let pool = std::cell::RefCell::new(pool);
        let mut leaf = |number| {
            let mut gradient = pool.borrow_mut().take(len);
            lane(number, &mut gradient).map(|()| gradient)
        };
        let mut add = |mut left: Flat, right: Flat| {
            add_into(&mut left, &right);
            pool.borrow_mut().give(right);
            left
        };
        let sums = plan.own.iter().map(|subtree| fold(*subtree, &mut leaf, &mut add));
        sums.collect::<Result<_, _>>().map(Self)
    }
}

/// Turns the local sums into the sum over all lanes, the same bits on every rank. `exchange` grows with every step, and
/// with every step that is redone.
///
/// # Errors
/// [`Lost`] when a peer does not deliver.
pub fn total(plan: &Plan, mut local: Local, exchange: u64, mesh: &Mesh, pool: &mut Pool) -> Result<Flat, Lost> {
    let mut run = Run {
        plan,
        exchange,
        mesh,
        local: &mut local,
        made: BTreeMap::new(),
    };
    for op in &plan.ops {
        run.execute(op)?;
    }
    let mut own = local.0.into_iter();
    // By now the first buffer holds the total: each slice was written there when it became complete.
    let total = own.next().expect("every rank has a subtree");
    own.for_each(|flat| pool.give(flat));
    Ok(total)
}

/// One execution of a plan.
struct Run<'a> {
    plan: &'a Plan,
    exchange: u64,
    mesh: &'a Mesh,
    local: &'a mut Local,
    /// Partial sums that were received or made here, except totals.
    made: BTreeMap<Partial, Vec<f32>>,
}

impl Run<'_> {
    fn execute(&mut self, op: &Op) -> Result<(), Lost> {
        match op {
            Op::Send { to, what } => {
                // What was made to be sent is not needed here any more.
                let payload = match self.made.remove(what) {
                    Some(made) => Bytes::from_owner(Floats(made)),
                    None => Bytes::copy_from_slice(bytemuck::cast_slice(self.value(*what))),
                };
                for to in to {
                    self.mesh.send(*to, self.tag(*what), payload.clone());
                }
            }
            Op::Receive { from, what } => {
                let payload = self.mesh.receive(*from, self.tag(*what))?;
                let expected = self.plan.slices.range(what.slice).len() * size_of::<f32>();
                if payload.len() != expected {
                    let why = format!("its partial sum has {} bytes instead of {expected}", payload.len());
                    return Err(Lost { rank: *from, why });
                }
                if what.subtree == self.plan.root {
                    bytemuck::cast_slice_mut(self.place_of_total(what.slice)).copy_from_slice(&payload);
                } else {
                    self.made.insert(*what, bytemuck::pod_collect_to_vec(&payload));
                }
            }
            Op::Add(what) => {
                let (left, right) = what.subtree.children().expect("only inner nodes are made");
                let child = |subtree| Partial { subtree, ..*what };
                let sum = self.add(child(left), child(right));
                self.keep(*what, sum);
            }
        }
        Ok(())
    }

    /// left + right; a value that was received or made here is used up. fp32 addition commutes, so it does not matter
    /// which of the two holds the result.
    fn add(&mut self, left: Partial, right: Partial) -> Vec<f32> {
        let (into, other) = if self.made.contains_key(&left) {
            (left, right)
        } else {
            (right, left)
        };
        let mut sum = self.made.remove(&into).unwrap_or_else(|| self.value(into).to_vec());
        add_into(&mut sum, self.value(other));
        self.made.remove(&other);
        sum
    }

    fn value(&self, what: Partial) -> &[f32] {
        if let Some(value) = self.made.get(&what) {
            return value;
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
        &self.local.0[at][self.plan.slices.range(what.slice)]
    }

    fn keep(&mut self, what: Partial, value: Vec<f32>) {
        if what.subtree == self.plan.root {
            self.place_of_total(what.slice).copy_from_slice(&value);
        } else {
            self.made.insert(what, value);
        }
    }

    /// Every partial sum of a slice was sent or added before its total can exist, so there is room in the first buffer.
    fn place_of_total(&mut self, slice: u32) -> &mut [f32] {
        &mut self.local.0[0][self.plan.slices.range(slice)]
    }

    fn tag(&self, what: Partial) -> Tag {
        Tag {
            kind: Kind::Partial,
            exchange: self.exchange,
            slice: what.slice,
            first: what.subtree.first,
            lanes: what.subtree.lanes,
        }
    }
}

/// Numbers that are sent as they lie in memory.
struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
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
    let sent = Bytes::from(own.clone());
    mesh.others().for_each(|to| mesh.send(to, tag, sent.clone()));
    let theirs = mesh.others().map(|from| Ok((from, mesh.receive(from, tag)?)));
    let mut all: BTreeMap<u32, Vec<u8>> = theirs.collect::<Result<_, Lost>>()?;
    all.insert(mesh.rank(), own);
    Ok(all)
}

fn add_into(sum: &mut [f32], other: &[f32]) {
    for (sum, other) in sum.iter_mut().zip(other) {
        *sum += other;
    }
}

#[cfg(test)]
mod tests;
