//! `POST /jobs/dry-run`: what a document would get of the present cluster, without a job.

use super::auth::Submitter;
use super::extract::Body;
use super::{App, Result, submission};
use crate::plan::{self, Means, Node, Request};
use crate::reconcile::needs;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use medley_protocol::estimate::Estimate;
use medley_protocol::ids::StageId;
use medley_protocol::rest::{DryRun, Placed};
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;
use medley_protocol::staircase::{Stair, idle, next_useful, stairs};
use std::collections::{BTreeMap, BTreeSet};

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new().route("/jobs/dry-run", post(dry_run))
}

async fn dry_run(
    _: Submitter,
    State(app): State<App>,
    Body(document): Body<serde_json::Value>,
) -> Result<Json<DryRun>> {
    let (spec, _) = submission::check(&document).await?;
    let known = app.store.list_nodes().await?;
    let mut names = BTreeMap::new();
    let mut nodes = Vec::new();
    for node in known {
        let pulse = app.control.pulse(node.id);
        if pulse.alive {
            nodes.push(Node {
                id: node.id,
                devices: node.devices,
                free: node.devices.saturating_sub(pulse.busy),
                fingerprint: node.fingerprint,
                means: Means::of(&pulse.hardware, node.devices),
            });
            names.insert(node.id, node.name);
        }
    }
    let mut answer = foresee(&spec, &nodes);
    for placed in &mut answer.placement {
        placed.node_name = names.remove(&placed.node).unwrap_or_default();
    }
    Ok(Json(answer))
}

/// What a training stage of this spec would get if it were to be placed now, alone.
fn foresee(spec: &Spec, nodes: &[Node]) -> DryRun {
    let lanes = spec.lanes.count;
    let stage = StageId::from_uuid(uuid::Uuid::nil());
    let request = Request {
        stage,
        priority: spec.cluster.priority,
        min: spec.cluster.min_ranks,
        max: spec.cluster.max_ranks.min(lanes),
        lanes: Some(lanes),
        keeps: BTreeMap::new(),
        avoids: BTreeSet::new(),
        needs: needs(spec, StageKind::Pretrain),
    };
    let mut plan = plan::plan(nodes, &[request]);
    let placement = plan.placements.remove(&stage).unwrap_or_default();
    let ranks: u32 = placement.iter().map(|(_, ranks)| ranks).sum();
    let free = nodes.iter().map(|node| node.free).sum();
    let placed = |(node, ranks)| Placed {
        node,
        node_name: String::new(),
        ranks,
    };
    DryRun {
        lanes,
        devices: nodes.iter().map(|node| node.devices).sum(),
        free,
        placement: placement.into_iter().map(placed).collect(),
        reason: plan.waits.remove(&stage).unwrap_or_default(),
        present: (ranks > 0).then(|| Stair::of(lanes, ranks)),
        next: next_useful(lanes, ranks.max(1))
            .filter(|_| ranks > 0)
            .map(|next| Stair::of(lanes, next)),
        idle: idle(lanes, free).filter(|_| ranks > 0),
        stairs: stairs(lanes),
        memory: Estimate::of_job(spec, if ranks > 0 { ranks } else { spec.cluster.max_ranks }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::ids::NodeId;

    fn spec(cluster: &serde_json::Value) -> Spec {
        let document = serde_json::json!({
            "name": "j", "kind": "pretrain", "preset": "vit-b", "data": {"root": "/d"}, "cluster": cluster,
        });
        Spec::from_document(&document).unwrap()
    }

    fn nodes(free: &[u32]) -> Vec<Node> {
        let node = |(id, free): (u128, &u32)| Node {
            id: NodeId::from_uuid(uuid::Uuid::from_u128(id)),
            fingerprint: "a".into(),
            devices: 16,
            free: *free,
            means: Means::default(),
        };
        (1..).zip(free).map(node).collect()
    }

    #[test]
    fn devices_that_make_nothing_faster_are_named_with_the_next_number_that_does() {
        let answer = foresee(&spec(&serde_json::json!({})), &nodes(&[16, 15]));
        let ranks: Vec<u32> = answer.placement.iter().map(|placed| placed.ranks).collect();
        assert_eq!((ranks.iter().sum::<u32>(), answer.devices, answer.free), (16, 32, 31));
        let present = answer.present.unwrap();
        assert_eq!((present.lanes, present.speed, present.efficiency), (2, 16.0, 1.0));
        assert_eq!(answer.next.map(|next| next.ranks), Some(32));
        assert_eq!(
            answer.idle.as_deref(),
            Some("31 devices are no faster than 16 at 32 lanes")
        );
        assert_eq!(answer.reason, "");
    }

    #[test]
    fn the_memory_that_is_told_is_what_the_placement_was_judged_by() {
        let spec = spec(&serde_json::json!({}));
        let needed = |ranks| needs(&spec, StageKind::Pretrain).memory.of(ranks).host_bytes;
        assert!(needed(2) < needed(1));
        let mut nodes = nodes(&[16, 16]);
        for node in &mut nodes {
            node.means.host_bytes = Some(needed(2));
        }
        let answer = foresee(&spec, &nodes);
        assert_eq!(
            answer.placement.iter().map(|placed| placed.ranks).collect::<Vec<u32>>(),
            [1, 1]
        );
        let memory = answer.memory[0];
        assert_eq!((memory.lanes, memory.host_bytes), (16, Some(needed(2))));
        let answer = foresee(&spec, &nodes[..1]);
        assert!(
            answer.reason.contains("2 free devices") && answer.present.is_none(),
            "{}",
            answer.reason
        );
    }

    #[test]
    fn a_job_that_would_wait_is_told_why() {
        let answer = foresee(&spec(&serde_json::json!({"min_ranks": 8})), &nodes(&[4]));
        assert!(answer.reason.contains("8 free devices"), "{}", answer.reason);
        assert_eq!((answer.present, answer.next, answer.placement.len()), (None, None, 0));
    }
}
