//! Work that is asked of a device again and again.

use super::Device;
#[cfg(feature = "cuda")]
use crate::cuda;

/// Work that is always the same operations on the same memory, whoever asks for it. What differs from one time to the next is what
/// that memory holds.
///
/// The processor does it each time as it is asked. A GPU does so the first time, when memory is taken, tables are brought and
/// algorithms are chosen; the second time it records it, and from then on is asked for the record: one call instead of hundreds.
/// Results are the same bits.
#[derive(Default)]
pub(crate) struct Repeated {
    #[cfg(feature = "cuda")]
    times: usize,
    #[cfg(feature = "cuda")]
    recorded: Option<cuda::Recorded>,
}

impl Repeated {
    /// Has `work` done once more, possibly without calling it. In memory that it took when it was called last nobody may keep anything
    /// from one time to the next.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unused_self, reason = "the processor has nothing to remember")
    )]
    pub(crate) fn again(&mut self, device: &Device, mut work: impl FnMut()) {
        match device {
            Device::Cpu => work(),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda, _) => {
                if self.times == 1 {
                    self.recorded = cuda.record(&mut work);
                }
                self.times += 1;
                match &self.recorded {
                    Some(recorded) => recorded.again(),
                    // What cannot be recorded is done as it is asked.
                    None => work(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_does_work_as_often_as_it_is_asked() {
        let (mut work, mut times) = (Repeated::default(), 0);
        (0..5).for_each(|_| work.again(&Device::Cpu, || times += 1));
        assert_eq!(times, 5);
    }
}
