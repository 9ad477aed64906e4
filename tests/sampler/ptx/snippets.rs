//! The machine on small kernels of its own.

use super::machine::{Geometry, launch};
use super::memory::Memory;
use super::{parse, program};

const HEAD: &str = ".version 9.0\n.target sm_90\n.address_size 64\n";

fn run(body: &str, geometry: Geometry, out_words: usize, seed: u64) -> Result<Vec<u32>, String> {
    let text = format!(
        "{HEAD}.extern .shared .align 16 .b8 dyn[];
        .visible .entry k(.param .u64 k_param_0) {{
        .reg .pred %p<9>; .reg .b32 %r<30>; .reg .b64 %rd<9>; .reg .f32 %f<9>;
        ld.param.u64 %rd1, [k_param_0]; mov.u32 %r0, %tid.x;
        mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2;
        {body} ret; }}"
    );
    let module = parse::parse(&text)?;
    let mut memory = Memory::default();
    let out = memory.allocate(vec![0; out_words * 4]);
    let program = program::prepare(module.entry("k")?)?;
    launch(&program, geometry, &out.to_le_bytes(), &mut memory, seed)?;
    let words = memory.buffer(out).chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap()));
    Ok(words.collect())
}

fn one_block(threads: u32) -> Geometry {
    let (blocks, cluster, resident_blocks) = (1, 1, 1);
    Geometry { blocks, threads, cluster, dynamic_shared_bytes: 1024, resident_blocks }
}

#[test]
fn a_warp_sums_by_shuffles() {
    let body = "mov.u32 %r1, %r0;
        shfl.sync.bfly.b32 %r2|%p1, %r1, 16, 31, -1; add.s32 %r1, %r1, %r2;
        shfl.sync.bfly.b32 %r2|%p1, %r1, 8, 31, -1; add.s32 %r1, %r1, %r2;
        shfl.sync.bfly.b32 %r2|%p1, %r1, 4, 31, -1; add.s32 %r1, %r1, %r2;
        shfl.sync.bfly.b32 %r2|%p1, %r1, 2, 31, -1; add.s32 %r1, %r1, %r2;
        shfl.sync.bfly.b32 %r2|%p1, %r1, 1, 31, -1; add.s32 %r1, %r1, %r2;
        st.global.u32 [%rd3], %r1;";
    assert_eq!(run(body, one_block(32), 32, 1).unwrap(), [496; 32]);
}

#[test]
fn a_barrier_orders_and_its_absence_shows() {
    let exchange = |barrier: &str| {
        format!(
            "mov.u32 %r5, dyn; shl.b32 %r6, %r0, 2; add.s32 %r7, %r5, %r6;
            st.shared.u32 [%r7], %r0; {barrier}
            mov.u32 %r8, %ntid.x; sub.s32 %r9, %r8, %r0; sub.s32 %r9, %r9, 1;
            shl.b32 %r9, %r9, 2; add.s32 %r9, %r5, %r9; ld.shared.u32 %r10, [%r9];
            st.global.u32 [%rd3], %r10;"
        )
    };
    let mirrored: Vec<u32> = (0..64).rev().collect();
    for seed in 1..9 {
        assert_eq!(run(&exchange("bar.sync 0;"), one_block(64), 64, seed).unwrap(), mirrored);
        let race = run(&exchange(""), one_block(64), 64, seed).unwrap_err();
        assert!(race.contains("races with an access"), "{race}");
    }
}

#[test]
fn a_cluster_reads_its_neighbours_shared_memory() {
    let body = "mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, dyn; add.s32 %r3, %r1, 40;
        setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [dyn], %r3;
        barrier.cluster.arrive; barrier.cluster.wait;
        xor.b32 %r4, %r1, 1; mapa.shared::cluster.u32 %r5, %r2, %r4;
        ld.shared::cluster.u32 %r6, [%r5];
        mul.wide.u32 %rd4, %r1, 4; add.s64 %rd5, %rd1, %rd4; st.global.u32 [%rd5], %r6;
        barrier.cluster.arrive; barrier.cluster.wait;";
    let geometry = Geometry { blocks: 2, cluster: 2, ..one_block(32) };
    assert_eq!(run(body, geometry, 2, 3).unwrap(), [41, 40]);
}

#[test]
fn faults_are_named() {
    let fault = |body: &str| run(body, one_block(32), 32, 1).unwrap_err();
    assert!(fault("st.global.u32 [%rd3+4], %r0;").contains("which has 128"));
    assert!(fault("st.global.u32 [%rd3+2], %r0;").contains("misaligned"));
    assert!(fault("ld.shared.u32 %r1, [dyn+1024];").contains("which has 1024"));
    let half = "setp.lt.u32 %p1, %r0, 16;";
    assert!(fault(&format!("{half} @%p1 bar.sync 0;")).contains("16 of 32 threads"));
    assert!(
        fault(&format!("{half} @%p1 bra L; bar.sync 0; bra E; L: bar.sync 0; E:"))
            .contains("divergent")
    );
    assert!(
        fault(&format!("{half} @%p1 ret; vote.sync.any.pred %p2, %p1, -1;"))
            .contains("which is not there")
    );
    assert!(fault("shfl.sync.idx.b32 %r1, %r0, 20, 31, 65535;").contains("not in the mask"));
    assert!(fault("shfl.sync.idx.b32 %r1, %r0, 3, 31, 65534;").contains("not in its own mask"));
    assert!(fault("add.f32 %f1, %f2, %f3;").contains("add.f32"));
    assert!(fault("barrier.cluster.wait;").contains("without having arrived"));
    let spin = "L: nanosleep.u32 100; ld.volatile.global.u32 %r1, [%rd1]; setp.eq.u32 %p1, %r1, 0;";
    assert!(fault(&format!("{spin} @%p1 bra L;")).contains("hangs: 32 threads wait"));
    let apart = "@%p1 bra L; bar.sync 0; bra E; L: vote.sync.any.pred %p2, %p1, -1; E:";
    assert!(fault(&format!("{half} {apart}")).contains("hangs: 32 threads wait"));
}

/// Registers that share a place: what lives around a loop keeps its own.
#[test]
fn values_live_around_loops_and_guards() {
    let body = "mov.u32 %r1, 0; mov.u32 %r2, 7; mov.u32 %r3, 5;
        setp.lt.u32 %p1, %r0, 16; @%p1 mov.u32 %r3, 9;
        L: add.s32 %r4, %r1, 1; mov.u32 %r1, %r4; add.s32 %r5, %r2, %r4; mov.u32 %r2, %r5;
        setp.lt.u32 %p2, %r1, 10; @%p2 bra L;
        add.s32 %r6, %r2, %r3; st.global.u32 [%rd3], %r6;";
    let expected: Vec<u32> = (0..32).map(|t| 7 + 55 + if t < 16 { 9 } else { 5 }).collect();
    assert_eq!(run(body, one_block(32), 32, 1).unwrap(), expected);
}

/// Three blocks where one fits, in an order of the seed's: the last one to start sees what all left.
#[test]
fn blocks_start_when_others_have_ended() {
    let body = "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r0, 0; @%p1 bra E;
        atom.global.add.u32 %r2, [%rd1], 1; mul.wide.u32 %rd4, %r1, 4; add.s64 %rd5, %rd1, %rd4;
        st.global.u32 [%rd5+4], %r2; E:";
    let geometry = Geometry { blocks: 3, ..one_block(32) };
    assert_eq!(run(body, geometry, 4, 0).unwrap(), [3, 0, 1, 2]);
    let orders: Vec<_> = (1..20).map(|seed| run(body, geometry, 4, seed).unwrap()).collect();
    assert!(orders.iter().any(|order| *order != [3, 0, 1, 2]));
}
