//! Memory of a server's CUDA device: logits are written there by the client's own CUDA, and a request says where
//! they are.

use super::Error;
use super::control::{self, Registration};
use logitd_proto::SlotRef;
use logitd_proto::shm::{REGION_ID_BYTES, Register, SLOT_HEADER_BYTES};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Slots of device memory that a server samples from. This is all of it but CUDA: the client maps the memory
/// itself, with any CUDA library, and writes logits at [`slot_offset`](Self::slot_offset). The server lets go of
/// its part when this is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use logitd_proto::{Dtype, SampleRequest};
/// use logitd_client::{Client, DeviceRegion};
///
/// let client = Client::connect("unix:/run/logitd.sock").await?;
/// let control = client.info().await?.shm_control;
/// let mut region = DeviceRegion::register(&control, 0, 2 * 128_256, 4)?;
/// // On the device with `region.uuid()`: cuMemImportFromShareableHandle of `region.descriptor()`, then
/// // cuMemAddressReserve, cuMemMap and cuMemSetAccess of all `region.allocation_bytes()`. Write the logits at
/// // `region.slot_offset(0)`, and synchronize the stream.
/// let request = SampleRequest {
///     dtype: Dtype::F16.into(),
///     vocab_size: 128_256,
///     slot: Some(region.commit(0, 2 * 128_256)),
///     ..Default::default()
/// };
/// println!("{:?}", client.sample(request).await?.rows[0].token);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DeviceRegion {
    slot_stride_bytes: usize,
    generations: Vec<u64>,
    id: [u8; REGION_ID_BYTES],
    descriptor: OwnedFd,
    allocation_bytes: u64,
    uuid: [u8; 16],
    /// The region is there as long as this is open.
    _control: UnixStream,
}

impl DeviceRegion {
    /// Has the server at the control socket (`unix:PATH`, as in `GetInfoResponse.shm_control`) make `slot_count`
    /// slots with room for `slot_bytes` of logits each on its device `cuda:<device>`. Blocks until it has answered.
    pub fn register(
        control: &str,
        device: u32,
        slot_bytes: usize,
        slot_count: u32,
    ) -> Result<Self, Error> {
        Self::register_with(control, None, device, slot_bytes, slot_count)
    }

    /// The same with a bearer token, where the server asks for one.
    pub fn register_with(
        control: &str,
        token: Option<&str>,
        device: u32,
        slot_bytes: usize,
        slot_count: u32,
    ) -> Result<Self, Error> {
        let region = Self::try_register(control, token, device, slot_bytes, slot_count);
        region.map_err(|e| control::error(control, &e))
    }

    /// Stands for the memory: what `cuMemImportFromShareableHandle` takes.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// All of the memory: what `cuMemMap` must be given.
    pub fn allocation_bytes(&self) -> u64 {
        self.allocation_bytes
    }

    /// The device's UUID (`cuDeviceGetUuid`), since the client may number devices differently.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Slots in the region.
    pub fn slot_count(&self) -> u32 {
        self.generations.len() as u32
    }

    /// Where the logits of a slot begin in the memory: at a multiple of 64.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn slot_offset(&self, slot: u32) -> usize {
        let count = self.slot_count();
        assert!(slot < count, "slot {slot} of a region of {count}");
        slot as usize * self.slot_stride_bytes + SLOT_HEADER_BYTES
    }

    /// Names a slot's first `length_bytes` for a request. They must be written by then: the stream that writes them
    /// has been synchronized. They stay as they are until the answer has come.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn commit(&mut self, slot: u32, length_bytes: usize) -> SlotRef {
        let count = self.slot_count();
        assert!(slot < count, "slot {slot} of a region of {count}");
        let generation = &mut self.generations[slot as usize];
        *generation += 1;
        let region = bytes::Bytes::copy_from_slice(&self.id);
        SlotRef { region, slot, generation: *generation, length_bytes: length_bytes as u64 }
    }

    fn try_register(
        control: &str,
        token: Option<&str>,
        device: u32,
        slot_bytes: usize,
        slot_count: u32,
    ) -> io::Result<Self> {
        let (stride, _) = control::layout(slot_bytes, slot_count)?;
        let wanted =
            Register { slot_stride_bytes: stride as u64, slot_count, device: Some(device) };
        let Registration { control, id, allocation } =
            control::register(control, token, wanted, None)?;
        let (allocation, descriptor) = allocation.expect("asked for, and otherwise an error");
        Ok(Self {
            slot_stride_bytes: stride,
            generations: vec![0; slot_count as usize],
            id,
            descriptor,
            allocation_bytes: allocation.bytes,
            uuid: allocation.uuid,
            _control: control,
        })
    }
}
