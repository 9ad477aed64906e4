use super::*;
use logitd_core::batch::{Loan, LoanError};
use std::sync::atomic::{AtomicBool, Ordering};

const ME: Peer = Peer { uid: 1000, pid: 42 };

/// Memory that clients hand over.
mod handed_over {
    use super::*;
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::unix::fs::FileExt;

    const LIMITS: ShmLimits = ShmLimits {
        regions_per_peer_max: 2,
        bytes_per_peer_max: 1 << 16,
        bytes_max: 1 << 17,
        slots_per_region_max: 8,
    };
    const LAYOUT: Register = Register { slot_stride_bytes: 4096, slot_count: 4, device: None };

    fn memory(bytes: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let descriptor = memfd_create("test", flags).unwrap();
        ftruncate(&descriptor, bytes).unwrap();
        fcntl_add_seals(&descriptor, seals).unwrap();
        descriptor
    }

    fn sealed(bytes: u64) -> OwnedFd {
        memory(bytes, SealFlags::SHRINK | SealFlags::GROW)
    }

    fn write(descriptor: &OwnedFd, slot: u64, generation: u64, payload: &[u8]) {
        let file = std::fs::File::from(descriptor.try_clone().unwrap());
        file.write_all_at(payload, slot * 4096 + 64).unwrap();
        file.write_all_at(&generation.to_le_bytes(), slot * 4096).unwrap();
    }

    fn regions() -> Regions {
        Regions::new(LIMITS, None)
    }

    #[test]
    fn what_was_written_is_what_is_read() {
        let (regions, mut buffer) = (regions(), Vec::new());
        let descriptor = sealed(4 * 4096);
        let registration = regions.take(&descriptor, LAYOUT, ME).unwrap();
        write(&descriptor, 3, 9, b"some logits");
        let named = SlotRef { region: registration.id(), slot: 3, generation: 9, length_bytes: 11 };
        let loan = regions.borrow(named, ME).unwrap();
        loan.read(&mut buffer).unwrap();
        assert_eq!(buffer, b"some logits");
        let mut piece = [0; 4];
        loan.copy(5, &mut piece);
        assert_eq!((&piece, loan.check()), (b"logi", Ok(())));

        let error = |named| regions.borrow(named, ME).unwrap_err();
        assert_eq!(error(named), ShmError::Busy(3));
        write(&descriptor, 3, 10, b"other logits");
        assert!(matches!(loan.check(), Err(LoanError::Changed(_))));
        assert!(matches!(loan.read(&mut buffer), Err(ShmError::Generation { found: 10, .. })));
        drop(loan);
        write(&descriptor, 3, 9, b"some logits");

        let stale = ShmError::Generation { slot: 3, found: 9, asked: 8 };
        assert_eq!(error(SlotRef { generation: 8, ..named }), stale);
        let text = error(SlotRef { slot: 4, ..named }).to_string();
        assert_eq!(text, "slot is 4; allowed: 0 to 3");
        for length_bytes in [0, 4033, u64::MAX] {
            let text = error(SlotRef { length_bytes, ..named }).to_string();
            assert_eq!(text, format!("length_bytes is {length_bytes}; allowed: 1 to 4032"));
        }
    }

    #[test]
    fn nobody_else_s_id_resolves_and_none_outlives_its_registration() {
        let regions = regions();
        let descriptor = sealed(4 * 4096);
        let registration = regions.take(&descriptor, LAYOUT, ME).unwrap();
        write(&descriptor, 0, 1, b"x");
        let named = SlotRef { region: registration.id(), slot: 0, generation: 1, length_bytes: 1 };
        for peer in [Peer { uid: 1001, ..ME }, Peer { pid: 43, ..ME }] {
            assert_eq!(regions.borrow(named, peer).unwrap_err(), ShmError::UnknownRegion);
        }
        let loan = regions.borrow(named, ME).unwrap();
        assert_eq!(regions.memory.usage(), (1, 4 * 4096));
        drop(registration);
        assert_eq!(regions.borrow(named, ME).unwrap_err(), ShmError::UnknownRegion);
        assert_eq!(regions.memory.usage(), (0, 0));
        let mut piece = [0];
        loan.copy(0, &mut piece);
        assert_eq!(&piece, b"x", "what is on loan stays");
    }

    #[test]
    fn what_could_fault_is_not_taken() {
        let regions = regions();
        let refused = |descriptor: &OwnedFd, layout| {
            regions.take(descriptor, layout, ME).unwrap_err().to_string()
        };
        let open = memory(1 << 14, SealFlags::empty());
        assert!(refused(&open, LAYOUT).contains("F_SEAL_SHRINK"));
        let half = memory(1 << 14, SealFlags::SHRINK);
        assert!(refused(&half, LAYOUT).contains("F_SEAL_GROW"));
        assert!(refused(&sealed(100), LAYOUT).contains("has 100 bytes, the slots need 16384"));
        let file = tempfile::tempfile().unwrap();
        assert!(refused(&file.into(), LAYOUT).contains("not a memfd"));
        let good = sealed(1 << 14);
        for (layout, text) in [
            (Register { slot_count: 0, ..LAYOUT }, "slot_count is 0; allowed: 1 to 8"),
            (Register { slot_count: 9, ..LAYOUT }, "slot_count is 9"),
            (Register { slot_stride_bytes: 64, ..LAYOUT }, "slot_stride_bytes is 64"),
            (Register { slot_stride_bytes: 100, ..LAYOUT }, "slot_stride_bytes is 100"),
            (Register { slot_stride_bytes: !63, ..LAYOUT }, "do not fit"),
        ] {
            assert!(refused(&good, layout).contains(text), "{text}");
        }
    }

    #[test]
    fn quotas_name_the_flag() {
        let regions = regions();
        let keep = [0, 1].map(|_| regions.take(&sealed(1 << 14), LAYOUT, ME).unwrap());
        let text = regions.take(&sealed(1 << 14), LAYOUT, ME).unwrap_err().to_string();
        assert!(text.contains("would be 3; the limit is 2 (--shm-regions-per-peer-max)"), "{text}");
        drop(keep);
        let large = Register { slot_stride_bytes: 1 << 15, ..LAYOUT };
        let text = regions.take(&sealed(1 << 17), large, ME).unwrap_err().to_string();
        assert!(text.contains("--shm-bytes-per-peer-max"), "{text}");
    }

    #[test]
    fn peers_have_their_own_quota_and_one_together() {
        let regions = regions();
        let all_of_a_peer = Register { slot_stride_bytes: 1 << 14, ..LAYOUT };
        let take = |pid| regions.take(&sealed(1 << 16), all_of_a_peer, Peer { pid, ..ME });
        let keep = [42, 43].map(|pid| take(pid).unwrap());
        let text = take(44).unwrap_err().to_string();
        assert!(text.contains("would be 196608; the limit is 131072 (--shm-bytes-max)"), "{text}");
        drop(keep);
        assert!(take(44).is_ok());
    }
}

/// Memory that is made on devices.
mod made {
    use super::*;

    const LAYOUT: Register = Register { slot_stride_bytes: 4096, slot_count: 4, device: Some(0) };
    /// What the device allocates at once.
    const PIECE: u64 = 1 << 16;
    const LIMITS: DeviceLimits = DeviceLimits {
        shm: ShmLimits {
            regions_per_peer_max: 2,
            bytes_per_peer_max: 3 * PIECE,
            bytes_max: 0,
            slots_per_region_max: 8,
        },
        bytes_max: 4 * PIECE,
    };

    /// Device 0 works, device 1 is full.
    #[derive(Debug)]
    struct Devices;

    impl DeviceMemory for Devices {
        fn rounded(&self, device: u32, bytes: u64) -> Result<u64, String> {
            let known = device < 2;
            known.then(|| bytes.next_multiple_of(PIECE)).ok_or("no such device".into())
        }

        fn make(&self, device: u32, bytes: u64) -> Result<Made, String> {
            if device == 1 {
                return Err("out of memory".into());
            }
            let bytes = self.rounded(device, bytes)?;
            Ok(Made {
                memory: Arc::new(Memory::default()),
                descriptor: tempfile::tempfile().unwrap().into(),
                bytes,
                uuid: [9; 16],
            })
        }
    }

    /// Each byte says which it is.
    #[derive(Debug, Default)]
    struct Memory(AtomicBool);

    impl Loan for Memory {
        fn copy(&self, at: usize, into: &mut [u8]) {
            (at..).zip(into).for_each(|(at, byte)| *byte = at as u8);
        }

        fn check(&self) -> Result<(), LoanError> {
            let lost = self.0.load(Ordering::Relaxed);
            if lost { Err(LoanError::Lost("it is gone".into())) } else { Ok(()) }
        }

        fn address_on(&self, device: &str, at: usize) -> Option<u64> {
            (device == "cuda:0").then_some(1 << 40 | at as u64)
        }
    }

    fn regions() -> Regions {
        Regions::new(LIMITS.shm, Some((Arc::new(Devices), LIMITS)))
    }

    #[test]
    fn a_slot_is_a_part_of_the_memory_and_is_answered_once_a_generation() {
        let (regions, mut buffer) = (regions(), Vec::new());
        let (registration, allocation, _) = regions.make(0, LAYOUT, ME).unwrap();
        assert_eq!(allocation, Allocation { bytes: PIECE, uuid: [9; 16] });
        let named = SlotRef { region: registration.id(), slot: 2, generation: 5, length_bytes: 9 };
        let error = |named| regions.borrow(named, ME).unwrap_err();

        let loan = regions.borrow(named, ME).unwrap();
        assert_eq!(loan.address_on("cuda:0", 3), Some(1 << 40 | (2 * 4096 + 64 + 3)));
        assert_eq!(loan.address_on("cuda:1", 3), None);
        assert_eq!(error(named), ShmError::Busy(2));
        drop(loan);
        // It was never answered, so it can be asked for again.
        let loan = regions.borrow(named, ME).unwrap();
        let bytes: Vec<u8> = (64..73).collect();
        loan.read(&mut buffer).unwrap();
        assert_eq!(buffer, bytes);
        assert_eq!(loan.check(), Ok(()));
        drop(loan);
        // It was read and checked, and still not answered.
        let loan = regions.borrow(named, ME).unwrap();
        loan.settle();
        drop(loan);

        for generation in [0, 4, 5] {
            let used = ShmError::Used { slot: 2, used: 5, asked: generation };
            assert_eq!(error(SlotRef { generation, ..named }), used);
        }
        assert!(regions.borrow(SlotRef { generation: 6, ..named }, ME).is_ok());
        assert!(regions.borrow(SlotRef { slot: 1, generation: 1, ..named }, ME).is_ok());
        assert!(error(SlotRef { slot: 4, ..named }).to_string().contains("allowed: 0 to 3"));
        let text = error(SlotRef { length_bytes: 4033, ..named }).to_string();
        assert_eq!(text, "length_bytes is 4033; allowed: 1 to 4032");
    }

    #[test]
    fn nobody_else_s_id_resolves_and_what_is_on_loan_stays() {
        let regions = regions();
        let (registration, ..) = regions.make(0, LAYOUT, ME).unwrap();
        let named = SlotRef { region: registration.id(), slot: 0, generation: 1, length_bytes: 1 };
        for peer in [Peer { uid: 1001, ..ME }, Peer { pid: 43, ..ME }] {
            assert_eq!(regions.borrow(named, peer).unwrap_err(), ShmError::UnknownRegion);
        }
        let loan = regions.borrow(named, ME).unwrap();
        drop(registration);
        assert_eq!(regions.borrow(named, ME).unwrap_err(), ShmError::UnknownRegion);
        let mut piece = [0];
        loan.copy(0, &mut piece);
        assert_eq!((piece, loan.check()), ([64], Ok(())));
    }

    #[test]
    fn quotas_count_what_the_device_gives_and_name_the_flag() {
        let regions = regions();
        let refused =
            |device, layout, peer| regions.make(device, layout, peer).unwrap_err().to_string();
        let keep = [0, 1].map(|_| regions.make(0, LAYOUT, ME).unwrap().0);
        assert!(refused(0, LAYOUT, ME).contains("--shm-regions-per-peer-max"));
        drop(keep);
        let large = Register { slot_stride_bytes: 3 * PIECE / 4 + 64, ..LAYOUT };
        assert!(refused(0, large, ME).contains("--shm-bytes-per-peer-max"));
        let large = Register { slot_stride_bytes: 3 * PIECE / 4, ..LAYOUT };
        let _keep = regions.make(0, large, ME).unwrap();
        let other = Peer { pid: 43, ..ME };
        let _keep = regions.make(0, LAYOUT, other).unwrap();
        let text = refused(0, LAYOUT, other);
        assert!(text.contains("would be 327680; the limit is 262144"), "{text}");
        assert!(text.contains("--cuda-region-bytes-max"), "{text}");
    }

    #[test]
    fn what_could_not_be_made_leaves_nothing_behind() {
        let regions = regions();
        let refused = |device, layout| regions.make(device, layout, ME).unwrap_err().to_string();
        assert_eq!(refused(1, LAYOUT), "out of memory");
        assert_eq!(refused(2, LAYOUT), "no such device");
        assert!(refused(0, Register { slot_count: 9, ..LAYOUT }).contains("slot_count is 9"));
        assert_eq!(regions.devices.as_ref().unwrap().0.usage(), (0, 0));
    }

    #[test]
    fn memory_that_is_lost_is_refused_with_the_reason() {
        let regions = regions();
        let (registration, ..) = regions.make(0, LAYOUT, ME).unwrap();
        let lost: Arc<dyn Loan> = Arc::new(Memory(AtomicBool::new(true)));
        registration.put(RegisteredRegion::new(Box::new(lost), LAYOUT));
        let named = SlotRef { region: registration.id(), slot: 0, generation: 1, length_bytes: 1 };
        let error = regions.borrow(named, ME).unwrap_err();
        assert_eq!(error, ShmError::Lost("it is gone".into()));
    }
}
