//! What a test asks of a coordinator, over REST as any user would.

use medley_protocol::checkpoint::{CheckpointPart, TensorHash};
use medley_protocol::client::Client;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::metrics::StepMetrics;
use medley_protocol::rest::{CheckpointView, EventView, MetricsPage};
use serde::de::DeserializeOwned;

/// A coordinator that is there. Whatever it refuses is a panic.
#[derive(Clone)]
pub struct Api(pub Client);

impl Api {
    /// The answer to a GET.
    ///
    /// # Panics
    /// When it is not given, as with every call here.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.0.get(path).await;
        answer.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// Submits a job.
    pub async fn submit(&self, document: &serde_json::Value) -> JobId {
        let key = uuid::Uuid::now_v7().to_string();
        let job = self.0.submit(document, &key).await;
        job.unwrap_or_else(|error| panic!("{document} is refused: {error}"))
            .job
            .id
    }

    /// The checkpoints of a job, newest first.
    pub async fn checkpoints(&self, job: JobId) -> Vec<CheckpointView> {
        self.get(&format!("/jobs/{job}/checkpoints")).await
    }

    /// What happened to a job.
    pub async fn events(&self, job: JobId) -> Vec<EventView> {
        self.get(&format!("/jobs/{job}/events?after=0&limit=1000")).await
    }

    /// All metrics of a stage.
    pub async fn metrics(&self, job: JobId, stage: StageId) -> Vec<StepMetrics> {
        let mut rows = Vec::new();
        loop {
            let path = format!("/jobs/{job}/metrics?stage={stage}&from_step={}&limit=1000", rows.len());
            let page: MetricsPage = self.get(&path).await;
            if page.rows.is_empty() {
                return rows;
            }
            rows.extend(page.rows);
        }
    }

    /// The tensors of the state that a checkpoint holds.
    pub async fn tensors(&self, checkpoint: &CheckpointView) -> Vec<TensorHash> {
        let mut tensors = Vec::new();
        for part in &checkpoint.parts {
            let list = part.tensors.as_ref().expect("tensors are listed");
            let bytes = self.0.get_bytes(&format!("/objects/{}", list.key)).await;
            let list: Vec<TensorHash> =
                serde_json::from_slice(&bytes.expect("every list is in the store")).expect("a list can be read");
            tensors.extend(list);
        }
        tensors
    }

    /// The whole state that a checkpoint holds, put together from its parts, each byte once.
    pub async fn state(&self, checkpoint: &CheckpointView) -> Vec<u8> {
        let mut parts: Vec<&CheckpointPart> = checkpoint.parts.iter().collect();
        parts.sort_by_key(|part| part.offset_bytes);
        let mut state = Vec::new();
        for part in parts {
            assert_eq!(
                part.offset_bytes,
                state.len() as u64,
                "no byte is in two parts or in none"
            );
            let bytes = self.0.get_bytes(&format!("/objects/{}", part.object.key)).await;
            state.extend(bytes.expect("every part is in the store"));
        }
        assert_eq!(state.len() as u64, checkpoint.state_bytes);
        state
    }
}
