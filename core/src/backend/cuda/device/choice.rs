//! Which kernels a device runs, and how many teams of them at once.
//!
//! A chip of compute capability 9.0 or later has thread-block clusters, if the kernels were compiled for such a
//! chip. That a device launches them is not taken for granted: the driver is asked how many run at once, and one of
//! each size is launched. Where none runs, the grid kernel takes the place of the cluster kernel, with the same bits;
//! where some run, it takes it in the launches for which the planner wants more blocks a row than clusters have.

use super::launch::Grid;
use super::{CudaOptions, TILES_OF_ROW_MAX, TILES_OF_USUAL_ROW};
use crate::backend::cuda::abi::Probe;
use crate::backend::cuda::context::{self, Context, check};
use crate::backend::cuda::plan::{Geometry, Kernel, Level, Residency, TEAMS};
use cudarc::driver::sys::{
    self, CUdevice_attribute as Attribute, CUfunction, CUfunction_attribute as FunctionAttribute,
    CUmodule, CUshared_carveout,
};
use std::ffi::{CStr, c_int, c_void};
use std::time::Duration;

/// The oldest chips that have thread-block clusters.
const CLUSTER_CHIP_MIN: u32 = 90;

/// A kernel, and what the planner must know of it.
pub(super) struct Choice {
    pub kind: Kernel,
    pub function: CUfunction,
    /// The most shared memory that a block can have.
    pub shared_bytes_max: u32,
    pub residency: Residency,
    /// The grid kernel, where launches may take it in place of this one.
    pub grid: Option<(CUfunction, Residency)>,
    /// What other devices of this kind can do and this one cannot.
    pub note: Option<String>,
}

impl Choice {
    /// Of the kernels of a module: the one that is wanted, or the best one that the device runs.
    pub fn make(
        context: &mut Context,
        module: CUmodule,
        chip: u32,
        options: &CudaOptions,
    ) -> Result<Self, String> {
        match options.kernel {
            Some(Kernel::Grid) => Self::grid(context, module, None),
            Some(Kernel::Cluster) => Self::cluster(context, module, chip, options.hang_timeout),
            None if chip < CLUSTER_CHIP_MIN => Self::grid(context, module, None),
            None => match Self::cluster(context, module, chip, options.hang_timeout) {
                Ok(cluster) => cluster.with_grid(context, module),
                Err(reason) => {
                    let note =
                        format!("{reason}; the grid kernel takes the place of the cluster kernel");
                    Self::grid(context, module, Some(note))
                }
            },
        }
    }

    fn grid(context: &Context, module: CUmodule, note: Option<String>) -> Result<Self, String> {
        let function = context.function(module, c"logitd_sample_grid")?;
        let shared_bytes_max = allow_shared_memory(context, function)?;
        let teams = |grid: &Grid, blocks: u32| Ok(TEAMS.map(|team| grid.blocks * blocks / team));
        let residency = residency(context, function, shared_bytes_max, teams)?;
        Ok(Self { kind: Kernel::Grid, function, shared_bytes_max, residency, grid: None, note })
    }

    /// With the grid kernel beside the cluster kernel.
    fn with_grid(self, context: &Context, module: CUmodule) -> Result<Self, String> {
        let grid = Self::grid(context, module, None)?;
        Ok(Self {
            shared_bytes_max: self.shared_bytes_max.min(grid.shared_bytes_max),
            grid: Some((grid.function, grid.residency)),
            ..self
        })
    }

    fn cluster(
        context: &mut Context,
        module: CUmodule,
        chip: u32,
        patience: Duration,
    ) -> Result<Self, String> {
        let function = context.function(module, c"logitd_sample_cluster")?;
        // What a driver compiled from PTX for an older chip has no clusters in it.
        let compiled_for =
            function_attribute(function, FunctionAttribute::CU_FUNC_ATTRIBUTE_PTX_VERSION)?;
        if chip.min(compiled_for) < CLUSTER_CHIP_MIN {
            return Err(format!(
                "sm_{chip} with code for sm_{compiled_for} has no thread-block clusters"
            ));
        }
        let shared_bytes_max = allow_shared_memory(context, function)?;
        let mut trial = Trial::new(context, module, patience)?;
        let tried = TEAMS.map(|team| trial.launch(context, team));
        let teams = |grid: &Grid, blocks: u32| {
            let mut teams = [grid.blocks * blocks; TEAMS.len()];
            for ((teams, team), tried) in teams.iter_mut().zip(TEAMS).zip(&tried).skip(1) {
                let clusters = Grid { blocks: grid.blocks * team, cluster_blocks: team, ..*grid };
                *teams = match tried {
                    Ok(()) => clusters.active_clusters(function)?,
                    Err(_) => 0,
                };
            }
            Ok(teams)
        };
        let residency = residency(context, function, shared_bytes_max, teams)?;
        let note = missing_sizes(&residency, &tried)?;
        Ok(Self { kind: Kernel::Cluster, function, shared_bytes_max, residency, grid: None, note })
    }
}

/// Which clusters do not run, and why; an error where none does.
fn missing_sizes(
    residency: &Residency,
    tried: &[Result<(), String>; TEAMS.len()],
) -> Result<Option<String>, String> {
    let missing: Vec<String> = (1..TEAMS.len())
        .filter(|&size| residency.levels[0].teams[size] == 0)
        .map(|size| match &tried[size] {
            Ok(()) => format!("of {} blocks none runs at once", TEAMS[size]),
            Err(reason) => format!("of {} blocks: {reason}", TEAMS[size]),
        })
        .collect();
    let what = format!("thread-block clusters do not launch ({})", missing.join("; "));
    match missing.len() {
        0 => Ok(None),
        all if all == TEAMS.len() - 1 => Err(what),
        _ => Ok(Some(format!("{what}; teams have other sizes"))),
    }
}

/// How many teams run at once where no slice is staged, with as much shared memory as leaves room for as many blocks
/// on a multiprocessor as then, and with as much as there is. For clusters the second may be fewer than the first:
/// the driver of an H200 has room for half as many. `teams` counts them for a grid of a block for each multiprocessor, and so many blocks on each.
fn residency(
    context: &Context,
    function: CUfunction,
    shared_bytes_max: u32,
    teams: impl Fn(&Grid, u32) -> Result<[u32; TEAMS.len()], String>,
) -> Result<Residency, String> {
    let geometry = Geometry::SHIPPED;
    let base = |tiles: usize| (geometry.shared_bytes as usize + tiles * size_of::<u32>()) as u32;
    let grid = Grid {
        blocks: context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        threads: geometry.threads,
        shared_bytes: base(TILES_OF_USUAL_ROW),
        cluster_blocks: 1,
    };
    let most = grid.active_blocks(function)?;
    if most == 0 {
        return Err(format!(
            "a multiprocessor has no room for a block of {} threads",
            grid.threads
        ));
    }
    let level = |blocks: u32, shared_bytes_max: u32| {
        let shared_bytes = grid.shared_bytes_for(function, blocks)?.min(shared_bytes_max);
        let teams = teams(&Grid { shared_bytes, ..grid }, blocks)?;
        Ok::<_, String>(Level { shared_bytes, teams })
    };
    let not_staged = base(TILES_OF_ROW_MAX);
    Ok(Residency {
        levels: [
            level(most, shared_bytes_max.min(not_staged))?,
            level(most, shared_bytes_max)?,
            level(1, shared_bytes_max)?,
        ],
    })
}

/// Launches clusters of a kernel that does next to nothing.
struct Trial {
    function: CUfunction,
    stream: sys::CUstream,
    done: sys::CUevent,
    probe: u64,
    patience: Duration,
}

impl Trial {
    fn new(context: &mut Context, module: CUmodule, patience: Duration) -> Result<Self, String> {
        let trial = Self {
            function: context.function(module, c"logitd_probe")?,
            stream: context.stream()?,
            done: context.signal()?,
            probe: context.device_memory(size_of::<Probe>())?,
            patience,
        };
        // SAFETY: the memory is the context's, bound just now, and that long; nothing else uses it.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(trial.probe, 0, size_of::<Probe>(), trial.stream)
        })?;
        Ok(trial)
    }

    /// Launches one cluster of so many blocks, and waits for it.
    fn launch(&mut self, context: &Context, blocks: u32) -> Result<(), String> {
        let parameters = [(&raw mut self.probe).cast::<c_void>()];
        let grid = Grid { blocks, cluster_blocks: blocks, ..Grid::default() };
        grid.launch(self.function, self.stream, &parameters)?;
        // SAFETY: both are the context's and alive; `Context::signal` has bound it.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.done, self.stream) })?;
        // SAFETY: as above.
        let waited = unsafe { context::wait(self.done, "a cluster", self.patience) };
        waited.inspect_err(|_| context.lose())
    }
}

/// A kernel that runs before or after the sampling one. As much shared memory is set aside for it, so that the division
/// stays as it is.
pub(super) fn beside(
    context: &Context,
    module: CUmodule,
    name: &CStr,
) -> Result<CUfunction, String> {
    let function = context.function(module, name)?;
    allow_shared_memory(context, function)?;
    Ok(function)
}

fn function_attribute(function: CUfunction, attribute: FunctionAttribute) -> Result<u32, String> {
    let mut value: c_int = 0;
    // SAFETY: the function is loaded; it writes one integer.
    check("cuFuncGetAttribute", unsafe {
        sys::cuFuncGetAttribute(&mut value, attribute, function)
    })?;
    u32::try_from(value).map_err(|_| format!("cuFuncGetAttribute: {attribute:?} is {value}"))
}

/// Lets blocks have as much shared memory as the chip gives to those that ask, and says how much.
///
/// As much of a multiprocessor's memory as can be is set aside for it, once and for all. Left alone, the driver
/// divides the memory anew by what each launch needs: it may leave no room for the second block that the plan counts
/// on, and a multiprocessor changes the division only when it is idle. The rest is the L1 cache; a block's share of a
/// usual row is larger than that in any case.
fn allow_shared_memory(context: &Context, function: CUfunction) -> Result<u32, String> {
    let most =
        context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    let fixed =
        function_attribute(function, FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
    let dynamic = most.saturating_sub(fixed);
    for (attribute, value) in [
        (FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, dynamic as c_int),
        (
            FunctionAttribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
            CUshared_carveout::CU_SHAREDMEM_CARVEOUT_MAX_SHARED as c_int,
        ),
    ] {
        // SAFETY: the function is loaded.
        check("cuFuncSetAttribute", unsafe {
            sys::cuFuncSetAttribute(function, attribute, value)
        })?;
    }
    Ok(dynamic)
}
