//! Table `nodes`.

use super::value::count;
use super::{Store, events};
use crate::domain::Event;
use crate::domain::node::KnownNode;
use chrono::{DateTime, Utc};
use medley_protocol::agent::Register;
use medley_protocol::ids::{IncarnationId, NodeId};
use medley_protocol::rest::NodeView;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    name: String,
    incarnation: Uuid,
    host: String,
    devices: i32,
    threads: i32,
    fingerprint: String,
    registered_at: DateTime<Utc>,
}

impl Row {
    fn known(self) -> KnownNode {
        KnownNode {
            id: NodeId::from_uuid(self.id),
            name: self.name,
            incarnation: IncarnationId::from_uuid(self.incarnation),
            devices: self.devices.unsigned_abs(),
            fingerprint: self.fingerprint,
        }
    }

    fn view(self) -> NodeView {
        NodeView {
            id: NodeId::from_uuid(self.id),
            name: self.name,
            host: self.host,
            alive: false,
            devices: self.devices.unsigned_abs(),
            busy: 0,
            threads: self.threads.unsigned_abs(),
            fingerprint: self.fingerprint,
            stragglers: Vec::new(),
            registered_at: self.registered_at,
        }
    }
}

impl Store {
    /// Takes in a node, or a new life of its agent. Repeating a registration changes nothing.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn register_node(&self, register: &Register) -> sqlx::Result<KnownNode> {
        let mut transaction = self.pool.begin().await?;
        let before: Option<Uuid> = sqlx::query_scalar("SELECT incarnation FROM nodes WHERE name = $1 FOR UPDATE")
            .bind(&register.name)
            .fetch_optional(&mut *transaction)
            .await?;
        let row: Row = sqlx::query_as(
            "INSERT INTO nodes (id, name, incarnation, host, devices, threads, fingerprint)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (name) DO UPDATE
             SET incarnation = $3, host = $4, devices = $5, threads = $6, fingerprint = $7, registered_at = now()
             RETURNING id, name, incarnation, host, devices, threads, fingerprint, registered_at",
        )
        .bind(NodeId::generate().as_uuid())
        .bind(&register.name)
        .bind(register.incarnation.as_uuid())
        .bind(&register.host)
        .bind(register.devices as i32)
        .bind(register.threads as i32)
        .bind(&register.fingerprint)
        .fetch_one(&mut *transaction)
        .await?;
        let known = row.known();
        if before != Some(register.incarnation.as_uuid()) {
            let again = if before.is_some() {
                "again: its agent started anew"
            } else {
                "for the first time"
            };
            let message = format!(
                "node {} registered {again}; it has {} devices",
                known.name, known.devices
            );
            events::add(
                &mut transaction,
                &[Event::of_node(known.id, "node-registered", message)],
            )
            .await?;
        }
        transaction.commit().await?;
        Ok(known)
    }

    /// Every node that ever registered.
    pub async fn known_nodes(&self) -> sqlx::Result<Vec<KnownNode>> {
        self.node_rows()
            .await
            .map(|rows| rows.into_iter().map(Row::known).collect())
    }

    /// Every node by name, for people; whether it is alive and busy is for the leader's memory to say.
    pub async fn list_nodes(&self) -> sqlx::Result<Vec<NodeView>> {
        self.node_rows()
            .await
            .map(|rows| rows.into_iter().map(Row::view).collect())
    }

    async fn node_rows(&self) -> sqlx::Result<Vec<Row>> {
        sqlx::query_as(
            "SELECT id, name, incarnation, host, devices, threads, fingerprint, registered_at
             FROM nodes
             ORDER BY name",
        )
        .fetch_all(&self.pool)
        .await
    }
}

/// Gives out the next revision of the orders of each of these nodes.
pub(super) async fn next_revisions(
    connection: &mut PgConnection,
    nodes: &[NodeId],
) -> sqlx::Result<BTreeMap<NodeId, u64>> {
    let ids: Vec<Uuid> = nodes.iter().map(|node| node.as_uuid()).collect();
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "UPDATE nodes SET revision = revision + 1
         WHERE id = ANY($1)
         RETURNING id, revision",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(id, revision)| Ok((NodeId::from_uuid(id), count(revision)?)))
        .collect()
}
