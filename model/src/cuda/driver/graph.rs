//! Work of a stream that is recorded, and asked for as a whole.

use super::Stream;
use crate::cuda::error::CudaError;
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUstreamCaptureMode};

/// Recorded work: what was called, with its arguments and in its order.
pub(in crate::cuda) struct Graph {
    raw: sys::CUgraphExec,
}

// SAFETY: the driver locks what its handles name.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Stream {
    /// From now on this thread's calls are recorded and not done. A call that cannot be recorded fails, and with it the record.
    pub(in crate::cuda) fn begin_record(&self) -> Result<(), CudaError> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        let result = unsafe { result::stream::begin_capture(self.raw, mode) };
        result.map_err(|error| CudaError::driver("record its work", error))
    }

    /// Ends the record, on the thread that has begun it; whatever has become of it, calls are done again.
    pub(in crate::cuda) fn end_record(&self) -> Result<Graph, CudaError> {
        let at = |error| CudaError::driver("record its work", error);
        // SAFETY: the stream lives. The recorded graph is destroyed once, here; what runs is made of it before.
        unsafe {
            let recorded = result::stream::end_capture(self.raw).map_err(at)?;
            let raw = result::graph::instantiate(recorded, sys::CUgraphInstantiate_flags(0));
            let destroyed = result::graph::destroy(recorded);
            let graph = Graph { raw: raw.map_err(at)? };
            destroyed.map_err(at)?;
            Ok(graph)
        }
    }

    /// Does recorded work.
    pub(in crate::cuda) fn run(&self, graph: &Graph) -> Result<(), CudaError> {
        // SAFETY: both live; its owner keeps all memory in place that the work reads and writes.
        let result = unsafe { result::graph::launch(graph.raw, self.raw) };
        result.map_err(|error| CudaError::driver("do recorded work", error))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made once, by `end_record`. What is under way goes on, and the driver frees the graph behind it.
        let _ = unsafe { result::graph::exec_destroy(self.raw) };
    }
}
