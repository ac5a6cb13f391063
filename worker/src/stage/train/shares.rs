//! What a lane gives to all ranks besides its gradient: losses, and the momentum features that go into the queues.

use crate::collective::deal::Deal;
use crate::collective::tcp::Lost;
use medley_model::blip::LaneOutput;
use std::collections::BTreeMap;

/// Losses of a lane: ITC, ITM, LM.
const LOSSES: usize = 3;

/// Size of a lane's contribution.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneShare {
    /// Elements of its image features, and of its text features.
    pub(super) features: usize,
}

/// The contributions of all lanes, in lane order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gathered {
    /// Mean losses over lanes.
    pub(super) losses: [f64; LOSSES],
    /// Momentum image features.
    pub(super) image_features: Vec<f32>,
    /// Momentum text features.
    pub(super) text_features: Vec<f32>,
}

impl LaneShare {
    /// Elements of a contribution.
    pub(super) fn floats(self) -> usize {
        LOSSES + 2 * self.features
    }

    /// A rank's contribution: its lanes in order.
    pub(super) fn encode(self, lanes: &[LaneOutput]) -> Vec<u8> {
        let mut floats = Vec::with_capacity(lanes.len() * self.floats());
        for lane in lanes {
            floats.extend_from_slice(&lane.losses);
            floats.extend_from_slice(&lane.image_features);
            floats.extend_from_slice(&lane.text_features);
        }
        debug_assert_eq!(floats.len(), lanes.len() * self.floats());
        bytemuck::cast_slice(&floats).to_vec()
    }

    /// Puts everyone's contributions together, the same on every rank.
    ///
    /// # Errors
    /// [`Lost`] if a rank's contribution has another size than its lanes need.
    pub(super) fn gather(self, deal: &Deal, by_rank: &BTreeMap<u32, Vec<u8>>) -> Result<Gathered, Lost> {
        let mut by_lane = BTreeMap::new();
        for (&rank, bytes) in by_rank {
            let lanes: Vec<u32> = deal.lanes(rank).collect();
            let expected = lanes.len() * self.floats() * size_of::<f32>();
            if bytes.len() != expected {
                let why = format!(
                    "its features and losses have {} bytes instead of {expected}",
                    bytes.len()
                );
                return Err(Lost { rank, why });
            }
            let floats: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
            let shares = floats.chunks_exact(self.floats()).map(<[f32]>::to_vec);
            by_lane.extend(lanes.into_iter().zip(shares));
        }
        let mut gathered = Gathered {
            losses: [0.0; LOSSES],
            image_features: Vec::with_capacity(by_lane.len() * self.features),
            text_features: Vec::with_capacity(by_lane.len() * self.features),
        };
        for share in by_lane.values() {
            let (losses, features) = share.split_at(LOSSES);
            let (image, text) = features.split_at(self.features);
            for (mean, loss) in gathered.losses.iter_mut().zip(losses) {
                *mean += f64::from(*loss);
            }
            gathered.image_features.extend_from_slice(image);
            gathered.text_features.extend_from_slice(text);
        }
        gathered.losses = gathered.losses.map(|sum| sum / by_lane.len() as f64);
        Ok(gathered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::deal::deal;

    const SHARE: LaneShare = LaneShare { features: 2 };

    fn output(lane: u32) -> LaneOutput {
        let x = lane as f32;
        LaneOutput {
            losses: [x, 2.0 * x, 0.5],
            image_features: vec![x, x + 0.25],
            text_features: vec![-x, -x - 0.25],
        }
    }

    fn gathered(ranks: &[u32]) -> Gathered {
        let deal = deal(6, ranks).unwrap();
        let shares = (0..deal.ranks()).map(|rank| {
            let own: Vec<LaneOutput> = deal.lanes(rank).map(output).collect();
            (rank, SHARE.encode(&own))
        });
        SHARE.gather(&deal, &shares.collect()).unwrap()
    }

    #[test]
    fn contributions_come_in_lane_order_however_lanes_are_dealt() {
        let one = gathered(&[1]);
        assert_eq!(one.image_features[..4], [0.0, 0.25, 1.0, 1.25]);
        assert_eq!(one.losses, [2.5, 5.0, 0.5]);
        for ranks in [&[2][..], &[3], &[2, 3], &[6]] {
            assert_eq!(gathered(ranks), one, "{ranks:?}");
        }
    }

    #[test]
    fn a_contribution_of_another_size_names_its_rank() {
        let deal = deal(2, &[2]).unwrap();
        let shares = BTreeMap::from([(0, SHARE.encode(&[output(0)])), (1, vec![0; 4])]);
        assert_eq!(SHARE.gather(&deal, &shares).unwrap_err().rank, 1);
    }
}
