//! Table `nodes`.

use super::value::count;
use super::{Store, events};
use crate::domain::Event;
use crate::domain::node::{KnownNode, Withheld};
use chrono::{DateTime, Utc};
use medley_protocol::agent::Register;
use medley_protocol::hardware::Hardware;
use medley_protocol::ids::{IncarnationId, NodeId};
use medley_protocol::rest::{Duty, DutyChange, NodeView};
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
    duty: String,
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
            duty: duty(&self.duty),
            hardware: Hardware::default(),
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
             RETURNING id, name, incarnation, host, devices, threads, fingerprint, registered_at, duty",
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

    /// Gives a node another duty; none if there is no such node.
    pub async fn change_duty(&self, name: &str, change: DutyChange) -> sqlx::Result<Option<NodeView>> {
        let mut transaction = self.pool.begin().await?;
        let row: Option<Row> = sqlx::query_as(
            "UPDATE nodes
             SET duty = $2,
                 drain_by = CASE WHEN $2 = 'draining' THEN clock_timestamp() + make_interval(secs => $3) END
             WHERE name = $1
             RETURNING id, name, incarnation, host, devices, threads, fingerprint, registered_at, duty",
        )
        .bind(name)
        .bind(change.duty.name())
        .bind(change.deadline_s.map(f64::from))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(node) = row.map(Row::view) else {
            return Ok(None);
        };
        let (kind, message) = match (change.duty, change.deadline_s) {
            (Duty::Serving, _) => ("node-serves", format!("node {name} takes work again")),
            (Duty::Cordoned, _) => ("node-cordoned", format!("node {name} takes no new work")),
            (Duty::Draining, None) => ("node-drains", format!("node {name} is drained")),
            (Duty::Draining, Some(seconds)) => ("node-drains", format!("node {name} is drained, within {seconds} s")),
        };
        events::add(&mut transaction, &[Event::of_node(node.id, kind, message)]).await?;
        transaction.commit().await?;
        Ok(Some(node))
    }

    /// The nodes that take no new work.
    pub async fn withheld_nodes(&self) -> sqlx::Result<BTreeMap<NodeId, Withheld>> {
        let rows: Vec<(Uuid, bool, bool)> = sqlx::query_as(
            "SELECT id, duty = 'draining', coalesce(drain_by <= clock_timestamp(), false)
             FROM nodes
             WHERE duty <> 'serving'",
        )
        .fetch_all(&self.pool)
        .await?;
        let withheld = |(id, drains, is_due)| {
            let withheld = Withheld {
                drains,
                is_due,
                leaves: false,
            };
            (NodeId::from_uuid(id), withheld)
        };
        Ok(rows.into_iter().map(withheld).collect())
    }

    async fn node_rows(&self) -> sqlx::Result<Vec<Row>> {
        sqlx::query_as(
            "SELECT id, name, incarnation, host, devices, threads, fingerprint, registered_at, duty
             FROM nodes
             ORDER BY name",
        )
        .fetch_all(&self.pool)
        .await
    }
}

/// A duty by its name, of which the table knows no others.
fn duty(name: &str) -> Duty {
    let all = [Duty::Serving, Duty::Cordoned, Duty::Draining];
    all.into_iter().find(|duty| duty.name() == name).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_database;

    #[tokio::test]
    async fn a_duty_outlasts_registrations_and_ends_with_the_next() {
        let store = Store::new(test_database::fresh().await);
        let mut register = Register {
            name: "n1".into(),
            incarnation: IncarnationId::generate(),
            host: "h".into(),
            devices: 2,
            threads: 1,
            fingerprint: "f".into(),
        };
        let change = |duty, deadline_s| DutyChange { duty, deadline_s };
        let drains = change(Duty::Draining, Some(0));
        assert_eq!(
            store.change_duty("n1", drains).await.unwrap(),
            None,
            "there is none yet"
        );
        let node = store.register_node(&register).await.unwrap();
        let drained = store.change_duty("n1", drains).await.unwrap().unwrap();
        assert_eq!((drained.id, drained.duty), (node.id, Duty::Draining));
        register.incarnation = IncarnationId::generate();
        store.register_node(&register).await.unwrap();
        let withheld = |drains, is_due| {
            let withheld = Withheld {
                drains,
                is_due,
                leaves: false,
            };
            BTreeMap::from([(node.id, withheld)])
        };
        assert_eq!(store.withheld_nodes().await.unwrap(), withheld(true, true));
        store
            .change_duty("n1", change(Duty::Draining, Some(3600)))
            .await
            .unwrap();
        assert_eq!(store.withheld_nodes().await.unwrap(), withheld(true, false));
        store.change_duty("n1", change(Duty::Cordoned, None)).await.unwrap();
        assert_eq!(store.withheld_nodes().await.unwrap(), withheld(false, false));
        store.change_duty("n1", change(Duty::Serving, None)).await.unwrap();
        assert_eq!(store.withheld_nodes().await.unwrap(), BTreeMap::new());
        assert_eq!(store.list_nodes().await.unwrap()[0].duty, Duty::Serving);
    }
}
