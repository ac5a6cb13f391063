//! Where a step's work goes: floating-point operations and time of one thread, by part of the step and kind of work.
//!
//! Off unless [`measure`] asks for it; then every kernel that the thread calls is booked on the innermost kind and the present
//! part, each moment once. Operations are counted where they are executed (`2·m·n·k` in the one function for matrix products,
//! by formula in attention), so what is saved is not counted. Work that kernels hand to other threads counts as their caller's.

use std::cell::RefCell;

/// Parts of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Part {
    /// Outside of all others.
    #[default]
    Rest,
    /// Image tower, trained.
    Image,
    /// Image tower of the momentum encoder.
    MomentumImage,
    /// Unimodal text tower, trained.
    Text,
    /// Text tower of the momentum encoder.
    MomentumText,
    /// Contrastive loss.
    Contrast,
    /// Keys and values of the images in the multimodal layers.
    ImageKeys,
    /// Multimodal layers over matching and generated texts.
    Multimodal,
    /// Matching and language-modelling heads with their losses.
    Heads,
    /// AdamW and momentum average.
    Optimiser,
}

impl Part {
    /// All parts, in order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Rest,
        Self::Image,
        Self::MomentumImage,
        Self::Text,
        Self::MomentumText,
        Self::Contrast,
        Self::ImageKeys,
        Self::Multimodal,
        Self::Heads,
        Self::Optimiser,
    ];
}

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Kind {
    /// Copies, allocation, bookkeeping, and whatever has no kind of its own.
    #[default]
    Rest,
    /// Matrix products.
    Gemm,
    /// Attention between its projections.
    Attention,
    /// Sums of columns: gradients of biases.
    Bias,
    /// GELU.
    Gelu,
    /// Layer norm.
    Norm,
    /// Dropout of hidden states.
    Dropout,
    /// Sums of two tensors.
    Add,
    /// Softmax and cross-entropy of losses.
    Loss,
    /// AdamW.
    AdamW,
    /// Momentum average.
    Average,
}

impl Kind {
    /// All kinds, in order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Rest,
        Self::Gemm,
        Self::Attention,
        Self::Bias,
        Self::Gelu,
        Self::Norm,
        Self::Dropout,
        Self::Add,
        Self::Loss,
        Self::AdamW,
        Self::Average,
    ];
}

/// What was spent on one kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spent {
    /// Floating-point operations, a multiply-add being two.
    pub flops: u64,
    /// Seconds by the clock that was given.
    pub seconds: f64,
}

/// What was spent, by part and kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    spent: [[Spent; Kind::ALL.len()]; Part::ALL.len()],
}

impl Account {
    /// Spent on one kind of work in one part.
    pub fn of(&self, part: Part, kind: Kind) -> Spent {
        self.spent[part as usize][kind as usize]
    }

    /// Spent on whatever `wanted` picks.
    pub fn total(&self, wanted: impl Fn(Part, Kind) -> bool) -> Spent {
        let pairs = Part::ALL.iter().flat_map(|part| Kind::ALL.map(|kind| (*part, kind)));
        pairs
            .filter(|(part, kind)| wanted(*part, *kind))
            .fold(Spent::default(), |sum, (part, kind)| {
                let spent = self.of(part, kind);
                Spent {
                    flops: sum.flops + spent.flops,
                    seconds: sum.seconds + spent.seconds,
                }
            })
    }
}

struct Meter {
    clock: fn() -> f64,
    since: f64,
    part: Part,
    kind: Kind,
    account: Account,
}

impl Meter {
    /// Books the time since the last change, and goes on as another part or kind; returns what was before.
    fn switch(&mut self, part: Part, kind: Kind) -> (Part, Kind) {
        let now = (self.clock)();
        self.account.spent[self.part as usize][self.kind as usize].seconds += now - self.since;
        self.since = now;
        let before = (self.part, self.kind);
        (self.part, self.kind) = (part, kind);
        before
    }
}

thread_local! {
    static METER: RefCell<Option<Meter>> = const { RefCell::new(None) };
}

/// Runs `f` and returns what its thread spent, by a clock in seconds.
pub fn measure<R>(clock: fn() -> f64, f: impl FnOnce() -> R) -> (R, Account) {
    let meter = Meter {
        clock,
        since: clock(),
        part: Part::default(),
        kind: Kind::default(),
        account: Account {
            spent: [[Spent::default(); Kind::ALL.len()]; Part::ALL.len()],
        },
    };
    METER.set(Some(meter));
    let result = f();
    let mut meter = METER.take().expect("measurements are not nested");
    meter.switch(Part::default(), Kind::default());
    (result, meter.account)
}

/// What was under way before, and is again when this is dropped.
#[must_use]
pub(crate) struct Entered(Option<(Part, Kind)>);

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some((part, kind)) = self.0 {
            with(|meter| meter.switch(part, kind));
        }
    }
}

fn with<R>(f: impl FnOnce(&mut Meter) -> R) -> Option<R> {
    METER.with_borrow_mut(|meter| meter.as_mut().map(f))
}

/// Enters a part of the step.
pub(crate) fn part(part: Part) -> Entered {
    Entered(with(|meter| meter.switch(part, Kind::default())))
}

/// Enters a kind of work.
pub(crate) fn kind(kind: Kind) -> Entered {
    Entered(with(|meter| meter.switch(meter.part, kind)))
}

/// The present part.
pub(crate) fn present() -> Part {
    with(|meter| meter.part).unwrap_or_default()
}

/// Counts operations of the present kind.
pub(crate) fn flops(n: usize) {
    with(|meter| meter.account.spent[meter.part as usize][meter.kind as usize].flops += n as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A clock that advances by a second whenever it is read.
    fn ticks() -> f64 {
        thread_local! { static NOW: Cell<f64> = const { Cell::new(0.0) }; }
        NOW.set(NOW.get() + 1.0);
        NOW.get()
    }

    #[test]
    fn every_moment_is_booked_once_and_on_the_innermost_kind() {
        let ((), account) = measure(ticks, || {
            let _text = part(Part::Text);
            let _norm = kind(Kind::Norm);
            {
                let _gemm = kind(Kind::Gemm);
                flops(6);
            }
            flops(1);
        });
        assert_eq!(account.of(Part::Text, Kind::Gemm), Spent { flops: 6, seconds: 1.0 });
        assert_eq!(account.of(Part::Text, Kind::Norm), Spent { flops: 1, seconds: 2.0 });
        assert_eq!(account.total(|_, _| true), Spent { flops: 7, seconds: 7.0 });
    }

    #[test]
    fn nothing_is_counted_unless_asked_for() {
        let _gemm = kind(Kind::Gemm);
        flops(5);
        let ((), account) = measure(ticks, || ());
        assert_eq!(account.total(|_, _| true).flops, 0);
    }
}
