//! What a lane gives to all ranks besides its gradient: losses, what goes into the queues, and where a ledger is kept which
//! samples it has read; and before that, where negatives
//! come from all lanes, what they are drawn from.

use crate::collective::deal::Deal;
use crate::collective::tcp::Lost;
use medley_data::loader::Batch;
use medley_model::blip::LaneOutput;
use medley_protocol::ledger::{LaneSamples, LedgerEntry, Replaced};
use std::collections::BTreeMap;

/// Losses of a lane: ITC, ITM, LM.
const LOSSES: usize = 3;

/// Size of a lane's contributions.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneShare {
    /// Elements of its image features, and of its text features.
    pub(super) features: usize,
    /// Its samples, if they have features.
    pub(super) samples: usize,
    /// Samples that it reads.
    pub(super) batch: usize,
    /// Samples that the stage draws from, where a ledger is kept.
    pub(super) ledger: Option<u64>,
}

/// What a lane sends: so many losses beside its features, and so many words.
#[derive(Debug, Clone, Copy)]
struct Shape {
    losses: usize,
    words: usize,
}

/// One contribution of a lane.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    numbers: Vec<f32>,
    words: Vec<u64>,
}

/// The outcome of all lanes, in lane order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gathered {
    /// Mean losses over lanes.
    pub(super) losses: [f64; LOSSES],
    /// Momentum image features.
    pub(super) image_features: Vec<f32>,
    /// Momentum text features.
    pub(super) text_features: Vec<f32>,
    /// Identities of the images.
    pub(super) identities: Vec<u64>,
    /// What each lane has read, where a ledger is kept.
    pub(super) lanes: Vec<LaneSamples>,
}

/// The student's view of all lanes' samples, in lane order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct View {
    /// Image features.
    pub(super) image_features: Vec<f32>,
    /// Text features.
    pub(super) text_features: Vec<f32>,
    /// Numbers of the samples.
    pub(super) samples: Vec<u64>,
}

impl LaneShare {
    /// Bytes that a lane contributes to a step at most.
    pub(super) fn bytes(self) -> usize {
        self.size(self.outcome()) + self.size(self.view())
    }

    fn outcome(self) -> Shape {
        let drawn = self.ledger.map_or(0, |_| 2 + 2 * self.batch);
        Shape {
            losses: LOSSES,
            words: self.samples + drawn,
        }
    }

    fn view(self) -> Shape {
        Shape {
            losses: 0,
            words: self.samples,
        }
    }

    fn size(self, shape: Shape) -> usize {
        (shape.losses + 2 * self.features) * size_of::<f32>() + shape.words * size_of::<u64>()
    }

    /// What a lane's outcome says of its batch: the identities of its images if they have features, and for the ledger its
    /// place, its samples, and which draws they are.
    pub(super) fn words(self, batch: &Batch) -> Vec<u64> {
        let mut words = batch.identities[..self.samples].to_vec();
        if self.ledger.is_some() {
            words.extend([batch.epoch, batch.position]);
            words.extend(&batch.samples);
            let mut tries = vec![0; self.batch];
            for (position, attempt) in &batch.replaced {
                tries[(position - batch.position) as usize] = *attempt;
            }
            words.extend(tries);
        }
        words
    }

    /// The entry of a step in the ledger, if one is kept.
    pub(super) fn entry(self, step: u64, lanes: Vec<LaneSamples>) -> Option<LedgerEntry> {
        self.ledger.map(|pairs| LedgerEntry { step, pairs, lanes })
    }

    /// A rank's outcome: its lanes in order, each with its [`words`](Self::words).
    pub(super) fn encode(self, lanes: &[(LaneOutput, Vec<u64>)]) -> Vec<u8> {
        let size = self.size(self.outcome());
        let mut bytes = Vec::with_capacity(lanes.len() * size);
        for (lane, words) in lanes {
            bytes.extend_from_slice(bytemuck::cast_slice(&lane.losses));
            bytes.extend_from_slice(bytemuck::cast_slice(&lane.image_features));
            bytes.extend_from_slice(bytemuck::cast_slice(&lane.text_features));
            bytes.extend_from_slice(bytemuck::cast_slice(words));
        }
        debug_assert_eq!(bytes.len(), lanes.len() * size);
        bytes
    }

    /// Puts everyone's outcomes together, the same on every rank.
    ///
    /// # Errors
    /// [`Lost`] if a rank's contribution has another size than its lanes need.
    pub(super) fn gather(self, deal: &Deal, by_rank: &BTreeMap<u32, Vec<u8>>) -> Result<Gathered, Lost> {
        let parts = self.by_lane(self.outcome(), deal, by_rank)?;
        let mut gathered = Gathered {
            losses: [0.0; LOSSES],
            image_features: Vec::with_capacity(parts.len() * self.features),
            text_features: Vec::with_capacity(parts.len() * self.features),
            identities: Vec::with_capacity(parts.len() * self.samples),
            lanes: Vec::new(),
        };
        for Part { numbers, words } in &parts {
            let (losses, features) = numbers.split_at(LOSSES);
            let (image, text) = features.split_at(self.features);
            for (mean, loss) in gathered.losses.iter_mut().zip(losses) {
                *mean += f64::from(*loss);
            }
            gathered.image_features.extend_from_slice(image);
            gathered.text_features.extend_from_slice(text);
            let (identities, drawn) = words.split_at(self.samples);
            gathered.identities.extend_from_slice(identities);
            gathered.lanes.extend(lane_samples(drawn));
        }
        gathered.losses = gathered.losses.map(|sum| sum / parts.len() as f64);
        Ok(gathered)
    }

    /// What a rank's student sees: its lanes in order.
    pub(super) fn encode_views(self, lanes: &[View]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(lanes.len() * self.size(self.view()));
        for lane in lanes {
            bytes.extend_from_slice(bytemuck::cast_slice(&lane.image_features));
            bytes.extend_from_slice(bytemuck::cast_slice(&lane.text_features));
            bytes.extend_from_slice(bytemuck::cast_slice(&lane.samples));
        }
        bytes
    }

    /// Puts everyone's views together, the same on every rank.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub(super) fn gather_views(self, deal: &Deal, by_rank: &BTreeMap<u32, Vec<u8>>) -> Result<View, Lost> {
        let mut all = View::default();
        for Part { numbers, words } in self.by_lane(self.view(), deal, by_rank)? {
            let (image, text) = numbers.split_at(self.features);
            all.image_features.extend_from_slice(image);
            all.text_features.extend_from_slice(text);
            all.samples.extend(words);
        }
        Ok(all)
    }

    fn by_lane(self, shape: Shape, deal: &Deal, by_rank: &BTreeMap<u32, Vec<u8>>) -> Result<Vec<Part>, Lost> {
        let size = self.size(shape);
        let mut by_lane = BTreeMap::new();
        for (&rank, bytes) in by_rank {
            let lanes: Vec<u32> = deal.lanes(rank).collect();
            let expected = lanes.len() * size;
            if bytes.len() != expected {
                let why = format!(
                    "its features and losses have {} bytes instead of {expected}",
                    bytes.len()
                );
                return Err(Lost { rank, why });
            }
            let part = |bytes: &[u8]| {
                let (numbers, words) = bytes.split_at(size - shape.words * size_of::<u64>());
                Part {
                    numbers: bytemuck::pod_collect_to_vec(numbers),
                    words: bytemuck::pod_collect_to_vec(words),
                }
            };
            by_lane.extend(lanes.into_iter().zip(bytes.chunks_exact(size).map(part)));
        }
        Ok(by_lane.into_values().collect())
    }
}

/// What a lane's words say of its samples; none without a ledger.
fn lane_samples(words: &[u64]) -> Option<LaneSamples> {
    let ([epoch, position], drawn) = words.split_first_chunk()?;
    let (samples, tries) = drawn.split_at(drawn.len() / 2);
    let replaced = (*position..).zip(tries).filter(|(_, tries)| **tries > 0);
    Some(LaneSamples {
        epoch: *epoch,
        position: *position,
        samples: samples.to_vec(),
        replaced: replaced
            .map(|(position, tries)| Replaced {
                position,
                tries: *tries,
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::deal::deal;

    const SHARE: LaneShare = LaneShare {
        features: 2,
        samples: 1,
        batch: 1,
        ledger: None,
    };

    fn output(lane: u32) -> (LaneOutput, Vec<u64>) {
        let x = lane as f32;
        let output = LaneOutput {
            losses: [x, 2.0 * x, 0.5],
            image_features: vec![x, x + 0.25],
            text_features: vec![-x, -x - 0.25],
        };
        (output, vec![u64::MAX - u64::from(lane)])
    }

    fn view(lane: u32) -> View {
        let (output, samples) = output(lane);
        View {
            image_features: output.image_features,
            text_features: output.text_features,
            samples,
        }
    }

    fn gathered(ranks: &[u32]) -> (Gathered, View) {
        let deal = deal(6, ranks).unwrap();
        let of_rank = |encode: &dyn Fn(&[u32]) -> Vec<u8>| -> BTreeMap<u32, Vec<u8>> {
            let lanes = |rank| deal.lanes(rank).collect::<Vec<u32>>();
            (0..deal.ranks()).map(|rank| (rank, encode(&lanes(rank)))).collect()
        };
        let outcomes = of_rank(&|lanes| SHARE.encode(&lanes.iter().copied().map(output).collect::<Vec<_>>()));
        let views = of_rank(&|lanes| SHARE.encode_views(&lanes.iter().copied().map(view).collect::<Vec<_>>()));
        (
            SHARE.gather(&deal, &outcomes).unwrap(),
            SHARE.gather_views(&deal, &views).unwrap(),
        )
    }

    #[test]
    fn contributions_come_in_lane_order_however_lanes_are_dealt() {
        let one = gathered(&[1]);
        assert_eq!(one.0.image_features[..4], [0.0, 0.25, 1.0, 1.25]);
        assert_eq!(one.0.losses, [2.5, 5.0, 0.5]);
        assert_eq!(one.0.identities[..2], [u64::MAX, u64::MAX - 1]);
        assert_eq!(one.1.text_features[..4], [0.0, -0.25, -1.0, -1.25]);
        assert_eq!(one.1.samples[4..], [u64::MAX - 4, u64::MAX - 5]);
        for ranks in [&[2][..], &[3], &[2, 3], &[6]] {
            assert_eq!(gathered(ranks), one, "{ranks:?}");
        }
    }

    #[test]
    fn a_ledger_tells_what_every_lane_has_read_and_what_stood_in() {
        let share = LaneShare {
            batch: 3,
            ledger: Some(100),
            ..SHARE
        };
        let lane = |lane: u64| Batch {
            epoch: 2,
            position: 40 + 3 * lane,
            pixels: Vec::new(),
            texts: Vec::new(),
            identities: vec![lane, 7, 7],
            samples: vec![10 * lane, 10 * lane + 1, 99],
            replaced: vec![(42 + 3 * lane, 4)],
        };
        let outcome = |l: u32| (output(l).0, share.words(&lane(l.into())));
        for ranks in [&[1][..], &[2, 1]] {
            let deal = deal(4, ranks).unwrap();
            let lanes = |rank| share.encode(&deal.lanes(rank).map(outcome).collect::<Vec<_>>());
            let shares = (0..deal.ranks()).map(|rank| (rank, lanes(rank))).collect();
            let gathered = share.gather(&deal, &shares).unwrap();
            assert_eq!(gathered.identities, [0, 1, 2, 3]);
            let entry = share.entry(5, gathered.lanes).unwrap();
            assert_eq!((entry.step, entry.pairs, entry.len()), (5, 100, 12));
            let expected = LaneSamples {
                epoch: 2,
                position: 46,
                samples: vec![20, 21, 99],
                replaced: vec![Replaced { position: 48, tries: 4 }],
            };
            assert_eq!(entry.lanes[2], expected);
        }
    }

    #[test]
    fn a_contribution_of_another_size_names_its_rank() {
        let deal = deal(2, &[2]).unwrap();
        let shares = BTreeMap::from([(0, SHARE.encode(&[output(0)])), (1, vec![0; 4])]);
        assert_eq!(SHARE.gather(&deal, &shares).unwrap_err().rank, 1);
    }
}
