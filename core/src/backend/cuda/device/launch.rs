//! How a kernel is launched, and how much of it runs at once.
//!
//! Every function here expects that the context of the kernel is bound to the calling thread.

use crate::backend::cuda::context::check;
use cudarc::driver::sys::{
    self, CUfunction, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUlaunchConfig, CUstream,
};
use std::ffi::{c_int, c_void};
use std::ptr;

/// The blocks of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// How many there are: a multiple of `cluster_blocks`.
    pub blocks: u32,
    /// Threads of each.
    pub threads: u32,
    /// Dynamic shared memory of each.
    pub shared_bytes: u32,
    /// How many make a thread-block cluster; 1: there are no clusters.
    pub cluster_blocks: u32,
}

impl Default for Grid {
    fn default() -> Self {
        Self { blocks: 1, threads: 1, shared_bytes: 0, cluster_blocks: 1 }
    }
}

impl Grid {
    /// Launches a kernel. `parameters` point to its arguments.
    pub fn launch(
        &self,
        kernel: CUfunction,
        stream: CUstream,
        parameters: &[*mut c_void],
    ) -> Result<(), String> {
        self.with_config(stream, |config| {
            // SAFETY: the driver copies the configuration and the arguments before it returns, and writes to
            // neither; the arguments are as many and as long as the kernel has.
            check("cuLaunchKernelEx", unsafe {
                let parameters = parameters.as_ptr().cast_mut();
                sys::cuLaunchKernelEx(config, kernel, parameters, ptr::null_mut())
            })
        })
    }

    /// How many clusters like these run at once on the whole device.
    pub fn active_clusters(&self, kernel: CUfunction) -> Result<u32, String> {
        let mut clusters: c_int = 0;
        self.with_config(ptr::null_mut(), |config| {
            // SAFETY: the function is loaded; it reads the configuration and writes one integer.
            check("cuOccupancyMaxActiveClusters", unsafe {
                sys::cuOccupancyMaxActiveClusters(&mut clusters, kernel, config)
            })
        })?;
        Ok(u32::try_from(clusters).unwrap_or(0))
    }

    /// How many blocks like these run at once on one multiprocessor.
    pub fn active_blocks(&self, kernel: CUfunction) -> Result<u32, String> {
        let mut blocks: c_int = 0;
        // SAFETY: the function is loaded; it writes one integer.
        check("cuOccupancyMaxActiveBlocksPerMultiprocessor", unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                kernel,
                self.threads as c_int,
                self.shared_bytes as usize,
            )
        })?;
        Ok(u32::try_from(blocks).unwrap_or(0))
    }

    /// The most shared memory that a block can have for so many of them to run at once on one multiprocessor.
    pub fn shared_bytes_for(&self, kernel: CUfunction, blocks: u32) -> Result<u32, String> {
        let mut bytes = 0;
        // SAFETY: the function is loaded; it writes one size.
        check("cuOccupancyAvailableDynamicSMemPerBlock", unsafe {
            sys::cuOccupancyAvailableDynamicSMemPerBlock(
                &mut bytes,
                kernel,
                blocks as c_int,
                self.threads as c_int,
            )
        })?;
        Ok(u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    /// Calls with these blocks as the driver wants them said.
    fn with_config<T>(&self, stream: CUstream, call: impl FnOnce(&CUlaunchConfig) -> T) -> T {
        let mut cluster = cluster_attribute(self.cluster_blocks);
        call(&CUlaunchConfig {
            gridDimX: self.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: stream,
            attrs: &mut cluster,
            numAttrs: u32::from(self.cluster_blocks > 1),
        })
    }
}

/// Makes so many blocks a cluster.
fn cluster_attribute(blocks: u32) -> CUlaunchAttribute {
    let mut value = CUlaunchAttributeValue { pad: [0; 64] };
    // SAFETY: a union of plain integers; all of it was written.
    let cluster = unsafe { &mut value.clusterDim };
    (cluster.x, cluster.y, cluster.z) = (blocks, 1, 1);
    CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value,
    }
}
