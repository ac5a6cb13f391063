//! One step: own lanes, then everyone's sums, features and losses. Nothing here changes the state.

use super::batches::Batches;
use super::setup::{LaneShare, Setup};
use crate::collective::deal::Deal;
use crate::collective::reduce::{Local, Plan, share, total};
use crate::collective::tcp::{Lost, Mesh};
use crate::rank::failure::Failure;
use medley_model::blip::{LaneBatch, LaneStep};
use medley_model::flat::{Flat, Pool};
use medley_model::state::gradient_norm;
use std::collections::BTreeMap;

/// Names of the losses, in their order.
const TERMS: [&str; 3] = ["itc", "itm", "lm"];

/// What a rank needs to compute a step, besides the state.
pub(super) struct Workshop {
    pub deal: Deal,
    pub plan: Plan,
    pub mesh: Mesh,
    pub batches: Batches,
    /// Activations.
    pub pool: Pool,
    /// Gradients and nothing else.
    pub gradients: Pool,
}

/// What a step commits: the same bits on every rank.
#[derive(Debug)]
pub(super) struct Reduced {
    /// Sum over all lanes.
    pub gradient: Flat,
    /// Momentum image features in lane order.
    pub image_features: Vec<f32>,
    /// Momentum text features in lane order.
    pub text_features: Vec<f32>,
    /// Mean losses over lanes: ITC, ITM, LM.
    pub losses: [f64; 3],
    /// Norm of the mean gradient.
    pub grad_norm: f64,
}

impl Reduced {
    /// The first term that is not finite.
    pub(super) fn broken_term(&self) -> Option<&'static str> {
        let broken = TERMS.iter().zip(self.losses).find(|(_, loss)| !loss.is_finite());
        let gradient = (!self.grad_norm.is_finite()).then_some("gradient");
        broken.map(|(term, _)| *term).or(gradient)
    }
}

impl Workshop {
    /// Computes step `setup.state.step`; `attempt` is 0, or 1 when it is redone.
    pub(super) fn compute(&mut self, setup: &Setup, attempt: u64) -> Result<Reduced, Failure> {
        let step = setup.state.step;
        let exchange = 2 * step + attempt;
        let mut shares = Vec::new();
        let mut lane = |lane, gradient: &mut [f32]| {
            let batch = self.batches.get(step, lane, attempt > 0)?;
            let lane_batch = LaneBatch {
                pixels: &batch.pixels,
                texts: &batch.texts,
            };
            let lane_step = lane_step(setup, lane);
            let output = setup.blip.lane(&setup.state, lane_batch, lane_step, &mut self.pool, gradient);
            let output = output.map_err(|e| Failure::lasting(e.to_string()))?;
            shares.extend_from_slice(&output.losses);
            shares.extend_from_slice(&output.image_features);
            shares.extend_from_slice(&output.text_features);
            Ok::<_, Failure>(())
        };
        let local = Local::collect(&self.plan, setup.gradient_len(), &mut self.gradients, &mut lane)?;
        let all = share(bytemuck::cast_slice(&shares).to_vec(), exchange, &self.mesh)?;
        let gradient = total(&self.plan, local, exchange, &self.mesh, &mut self.gradients)?;
        let lanes = by_lane(&self.deal, setup.share_of_lane(), &all)?;
        let features = setup.share_of_lane().features;
        Ok(Reduced {
            losses: mean_losses(&lanes),
            image_features: lanes.iter().flat_map(|lane| &lane[3..3 + features]).copied().collect(),
            text_features: lanes.iter().flat_map(|lane| &lane[3 + features..]).copied().collect(),
            grad_norm: gradient_norm(&gradient, setup.lanes.count),
            gradient,
        })
    }
}

fn lane_step(setup: &Setup, lane: u32) -> LaneStep {
    LaneStep {
        objective: setup.objective,
        seed: setup.seed,
        step: setup.state.step,
        lane,
        alpha: setup.schedule.alpha(setup.state.step) as f32,
        prompt_tokens: setup.prompt_tokens,
    }
}

/// Sorts what ranks shared into lane order.
fn by_lane(deal: &Deal, layout: LaneShare, all: &BTreeMap<u32, Vec<u8>>) -> Result<Vec<Vec<f32>>, Lost> {
    let mut lanes = vec![Vec::new(); deal.root.lanes as usize];
    for (&rank, bytes) in all {
        let own: Vec<u32> = deal.lanes(rank).collect();
        if bytes.len() != own.len() * layout.bytes() {
            let why = format!("it shared {} bytes for {} lanes", bytes.len(), own.len());
            return Err(Lost { rank, why });
        }
        for (lane, bytes) in own.into_iter().zip(bytes.chunks_exact(layout.bytes())) {
            lanes[lane as usize] = bytemuck::pod_collect_to_vec(bytes);
        }
    }
    Ok(lanes)
}

/// Means over lanes, added in lane order.
fn mean_losses(lanes: &[Vec<f32>]) -> [f64; 3] {
    let mean = |term: usize| {
        let sum = lanes.iter().fold(0.0, |sum, lane| sum + f64::from(lane[term]));
        sum / lanes.len() as f64
    };
    [mean(0), mean(1), mean(2)]
}
