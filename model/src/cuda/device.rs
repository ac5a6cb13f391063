//! A device: what it owns, its errors, and copies to and from it.

use super::account::{Account, Spent, Work};
use super::answers::Chamber;
use super::blas::Blas;
use super::driver::{Context, Description, Event, Stream};
use super::error::CudaError;
use super::flash::LaidPlans;
use super::format::Format;
use super::launch::{Arg, Block, Kernels, Variant};
use super::memory::{FreeScratch, Memory, Scratch, Slice, SliceMut};
use super::plans::Plans;
use super::profile::Profile;
use super::record::Recorder;
use super::staging::Ring;
use super::sums::BUSY_BLOCKS;
use super::tables::{Table, Tables};
use bytemuck::Pod;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A CUDA device with a stream.
pub struct Cuda {
    // Dropped in this order: the context goes last.
    pub(super) plans: Mutex<Plans>,
    pub(super) blas: Blas,
    pub(super) profile: Profile,
    pub(super) recorder: Recorder,
    ring: Mutex<Ring>,
    pub(super) chambers: Mutex<Vec<Chamber>>,
    tables: Mutex<Tables>,
    pub(super) laid: Mutex<LaidPlans>,
    pub(super) free_scratch: Mutex<FreeScratch>,
    /// Of each group of columns of a sum over rows, the blocks that have arrived: none between two sums.
    arrived: u64,
    kernels: Arc<Kernels>,
    stream: Stream,
    context: Arc<Context>,
    failed: AtomicBool,
    pub(super) account: Account,
    error: Mutex<Option<CudaError>>,
}

impl Cuda {
    /// Opens a device and loads the kernels.
    ///
    /// # Errors
    /// What is missing on this machine, or what the driver says.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, CudaError> {
        let context = Arc::new(Context::open(ordinal)?);
        let kernels = Arc::new(Kernels::load()?);
        Self::with_stream(context, kernels)
    }

    /// The same device with a stream of its own: nothing has an order with what this one is asked, unless it
    /// [`follows`](Self::follow). What fails here has not failed there.
    ///
    /// # Errors
    /// What the driver says.
    pub fn beside(&self) -> Result<Arc<Self>, CudaError> {
        self.context.enter()?;
        Self::with_stream(Arc::clone(&self.context), Arc::clone(&self.kernels))
    }

    /// A device whose context is current.
    fn with_stream(context: Arc<Context>, kernels: Arc<Kernels>) -> Result<Arc<Self>, CudaError> {
        let stream = Stream::new()?;
        let ring = Mutex::new(Ring::new()?);
        let blas = Blas::new(&stream)?;
        let arrived = stream.allocate_zeros(BUSY_BLOCKS * size_of::<u32>())?;
        Ok(Arc::new(Self {
            plans: Mutex::default(),
            blas,
            profile: Profile::default(),
            recorder: Recorder::default(),
            ring,
            chambers: Mutex::default(),
            tables: Mutex::default(),
            laid: Mutex::default(),
            free_scratch: Mutex::default(),
            arrived,
            kernels,
            stream,
            context,
            failed: AtomicBool::new(false),
            account: Account::default(),
            error: Mutex::default(),
        }))
    }

    /// What is asked of this stream next comes behind all that `other`, of the same device, was asked so far. Nothing is awaited.
    ///
    /// # Errors
    /// What `other` has failed at, since nothing good would follow; or what the driver says.
    pub fn follow(&self, other: &Self) -> Result<(), CudaError> {
        if let Some(error) = other.failure() {
            return Err(error);
        }
        let stream = self.stream();
        let end = Event::new()?;
        end.record(other.stream())?;
        stream.wait(&end)
    }

    /// What the device is, and how much of its memory is free.
    pub fn describe(&self) -> Description {
        self.stream();
        self.context.describe().unwrap_or_else(|error| {
            self.note(Err(CudaError::driver("describe itself", error)));
            Description::default()
        })
    }

    /// What no other device in the world has.
    ///
    /// # Errors
    /// What the driver says.
    pub fn uuid(&self) -> Result<String, CudaError> {
        self.context.uuid()
    }

    /// Waits for the operations called so far.
    ///
    /// # Errors
    /// The first error since the last check. What was called after it was not done.
    pub fn check(&self) -> Result<(), CudaError> {
        self.synchronize();
        self.failed.store(false, Ordering::Relaxed);
        locked(&self.error).take().map_or(Ok(()), Err)
    }

    /// Waits for the operations called so far.
    pub fn synchronize(&self) {
        self.account
            .of(Work::Waiting, || self.note(self.stream().synchronize()));
    }

    /// Time that the host has waited for the device so far.
    pub fn waited(&self) -> Duration {
        self.account.time_of(Work::Waiting)
    }

    /// What the host has done for the device so far, by kind.
    pub fn spent(&self) -> Vec<Spent> {
        self.account.spent()
    }

    /// Waits for a mark in the stream; returns whether that went well.
    pub(super) fn await_mark(&self, mark: &Event) -> bool {
        self.account.of(Work::Waiting, || {
            self.stream();
            self.note(mark.wait())
        })
    }

    /// Memory of single precision with unspecified contents.
    pub fn memory(self: &Arc<Self>, len: usize) -> Memory {
        self.memory_of(len, Format::F32)
    }

    /// Memory with unspecified contents.
    pub fn memory_of(self: &Arc<Self>, len: usize, format: Format) -> Memory {
        Memory::new(self, len, format)
    }

    /// Copies to the device, rounding where less is stored; `from` may be changed at return.
    pub fn upload(&self, from: &[f32], to: SliceMut<'_>) {
        assert_eq!(from.len(), to.len(), "a copy has the length of its source");
        match to.format() {
            Format::F32 => self.send(from, to.address()),
            Format::Bf16 => {
                let wide = self.scratch(size_of_val(from));
                self.send(from, wide.address());
                self.copy(wide.slice(from.len(), Format::F32), to);
            }
        }
    }

    /// Copies the bytes of numbers in single precision to the device; `from` may be changed at return.
    pub fn upload_bytes(&self, from: &[u8], to: SliceMut<'_>) {
        let bytes = to.as_slice().bytes();
        assert!(
            to.format() == Format::F32 && from.len() == bytes,
            "a number has four bytes"
        );
        self.send(from, to.address());
    }

    /// Copies from the device and waits. What is there after an error is not a number.
    pub fn download(&self, from: Slice<'_>, to: &mut [f32]) {
        assert_eq!(from.len(), to.len(), "a copy has the length of its source");
        let fetched = to.is_empty()
            || match from.format() {
                Format::F32 => self.fetch(from.address(), to),
                Format::Bf16 => self.fetch(self.converted(from, Format::F32).address(), to),
            };
        if !fetched {
            to.fill(f32::NAN);
        }
    }

    /// A copy in another format.
    pub(super) fn converted(&self, x: Slice<'_>, format: Format) -> Scratch<'_> {
        let mut copy = self.scratch(x.len() * format.size());
        self.copy(x, copy.slice_mut(x.len(), format));
        copy
    }

    /// Copies to the host and waits; returns whether that went well.
    pub(super) fn fetch<T: Pod>(&self, from: u64, to: &mut [T]) -> bool {
        self.account.of(Work::Waiting, || {
            !self.has_failed() && self.note(self.stream().to_host(from, to))
        })
    }

    /// Copies host values to an address.
    fn send<T: Pod>(&self, values: &[T], to: u64) {
        if !values.is_empty() && !self.has_failed() {
            let bytes = bytemuck::cast_slice(values);
            let send = || locked(&self.ring).send(self.stream(), bytes, to);
            let sent = self.noting(|| "copy from the host".into(), || self.account.of(Work::Sending, send));
            self.note(sent);
        }
    }

    /// Host values on the device, for the operation that is called next.
    pub(super) fn bring<T: Pod>(&self, values: &[T]) -> Table {
        self.account
            .of(Work::Tables, || self.bring_bytes(bytemuck::cast_slice(values)))
    }

    fn bring_bytes(&self, bytes: &[u8]) -> Table {
        let mut tables = locked(&self.tables);
        if let Some(table) = tables.find(bytes) {
            return table;
        }
        let table = self.lay(bytes);
        // What may not be there is not kept: a failed device can be used again.
        let not_kept = if self.has_failed() {
            Some(table)
        } else {
            tables.keep(bytes.to_vec(), table)
        };
        self.free(not_kept.map_or(0, Table::address));
        table
    }

    /// Host bytes in new memory of the device.
    pub(super) fn lay(&self, bytes: &[u8]) -> Table {
        let table = Table::at(self.allocate(bytes.len()));
        self.send(bytes, table.address());
        table
    }

    /// Scratch with unspecified contents.
    pub(super) fn scratch(&self, bytes: usize) -> Scratch<'_> {
        Scratch::new(self, bytes)
    }

    /// Address of the numbers that sums over rows count their blocks with.
    pub(super) const fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Address of new memory; 0 if there is none.
    pub(super) fn allocate(&self, bytes: usize) -> u64 {
        if bytes == 0 || self.has_failed() {
            return 0;
        }
        let address = self.account.of(Work::Memory, || self.stream().allocate(bytes));
        let (address, result) = address.map_or_else(|error| (0, Err(error)), |address| (address, Ok(())));
        self.note(result);
        address
    }

    /// Frees memory behind all that was called, and not before records that may use it are gone.
    pub(super) fn free(&self, address: u64) {
        if address != 0 && !self.recorder.holds(address) {
            self.note(self.account.of(Work::Memory, || self.stream().free(address)));
        }
    }

    /// Runs a kernel over a grid of blocks.
    pub(super) fn launch(&self, kernel: impl Into<Variant>, grid: (u32, u32), block: impl Into<Block>, args: &[Arg]) {
        if grid.0 == 0 || grid.1 == 0 || self.leaves_out() {
            return;
        }
        let (kernel, block) = (kernel.into(), block.into());
        let launch = || self.kernels.launch(self.recordable(), kernel, grid, block, args);
        let result = self.noting(|| kernel.to_string(), || self.account.of(Work::Kernels, launch));
        self.note(result);
    }

    /// Whether an operation has failed, so that later ones do nothing.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The first error since the last check, of what was called so far; nothing is awaited.
    pub(super) fn failure(&self) -> Option<CudaError> {
        locked(&self.error).clone()
    }

    /// Makes the context current on this thread.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        self.context.enter()
    }

    /// The stream, with the context current on this thread, for what is done and not recorded.
    pub(super) fn stream(&self) -> &Stream {
        self.interrupt();
        self.recordable()
    }

    /// The stream for what may be recorded: kernels, products, and copies within the device.
    pub(super) fn recordable(&self) -> &Stream {
        self.note(self.context.enter());
        &self.stream
    }

    /// Keeps the first error; returns whether there is none in `result`. What fails while a step is recorded ends the record instead.
    pub(super) fn note(&self, result: Result<(), CudaError>) -> bool {
        let Err(error) = result else { return true };
        if self.interrupt() {
            return false;
        }
        self.failed.store(true, Ordering::Relaxed);
        locked(&self.error).get_or_insert(error);
        false
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // What the ring holds may be on its way. Nobody is left to hear of an error.
        let laid: Vec<Table> = locked(&self.laid).drain().map(|laid| laid.words).collect();
        let tables: Vec<Table> = locked(&self.tables).drain().chain(laid).collect();
        let scratch: Vec<u64> = locked(&self.free_scratch).drain().collect();
        let addresses = tables.into_iter().map(Table::address).chain(scratch);
        for address in addresses.chain([self.blas.workspace(), self.arrived]) {
            let _ = self.stream().free(address);
        }
        let _ = self.stream().synchronize();
    }
}

/// What a mutex holds, whatever happened to a thread that held it: it is left whole between any two statements.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
