//! How a launch is laid out: how many blocks share a row, and how much memory that takes.

use super::abi::{RowDescriptor, RowDraw, RowOutcome};
use super::adjust::{AdjustDescriptor, Change, TouchedToken};
use super::cuts::{CutDescriptor, CutsBefore};
use super::inspect::{self, InspectDescriptor};
use crate::arithmetic::draw::DrawRule;
use crate::arithmetic::plan::{Plan, Step};
use crate::batch::Row;
use std::mem::size_of;

/// Tokens of a tile, the unit in which the kernels read a row.
pub const TILE: usize = 256;
/// The most blocks that share a row: what a thread-block cluster can have on every chip that has them.
pub const TEAM_BLOCKS_MAX: u32 = 8;
/// Bytes of a token's id.
const ID_BYTES: usize = size_of::<u32>();
/// How many blocks can share a row.
pub const TEAMS: [u32; 4] = [1, 2, 4, TEAM_BLOCKS_MAX];
/// Every part of a buffer starts at a multiple of this, so that rows are read 16 bytes at a time and no
/// two parts share a cache line.
const PART_ALIGN: usize = 128;

/// The numbers a build of the kernels was compiled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Geometry {
    /// Threads a block.
    pub threads: u32,
    /// Candidates that one block sorts.
    pub list: u32,
    /// Bins of a histogram of counts.
    pub count_bins: u32,
    /// Bins of a histogram of counts and masses.
    pub mass_bins: u32,
    /// Shared memory a block, before tile keys and the staged slice.
    pub shared_bytes: u64,
    /// Scratch memory a row.
    pub scratch_bytes: u64,
}

impl Geometry {
    /// That of the kernels as they are shipped. `kernels/sample.cu` asserts it.
    pub const SHIPPED: Self = Self {
        threads: 256,
        list: 1024,
        count_bins: 4096,
        mass_bins: 1024,
        shared_bytes: 16_496,
        scratch_bytes: 57_664,
    };
}

/// Which kernel a launch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Blocks that meet at a counter in global memory: any chip.
    Grid,
    /// Thread-block clusters: compute capability 9.0 and later.
    Cluster,
}

impl Kernel {
    /// The name used by reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Cluster => "cluster",
        }
    }
}

/// How many teams run at once on the whole device.
///
/// A cluster's blocks must all be on one group of multiprocessors (a GPC), so there is room for fewer clusters than
/// there is for blocks; and a block with a staged slice may leave no room for a second one beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// By ascending shared memory.
    pub levels: [Level; 3],
}

/// How many teams run at once as long as no block has more than some shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The most shared memory that a block can have.
    pub shared_bytes: u32,
    /// Teams of each size in [`TEAMS`]; 0 where a device runs none of that size.
    pub teams: [u32; TEAMS.len()],
}

impl Residency {
    /// Where teams are limited by nothing but the number of blocks.
    pub fn of_blocks(blocks: u32, shared_bytes: u32) -> Self {
        Self { levels: [Level { shared_bytes, teams: TEAMS.map(|team| blocks / team) }; 3] }
    }

    /// Teams of so many blocks that run at once if each block has so much shared memory.
    pub fn teams_at_once(&self, team_blocks: u32, shared_bytes: usize) -> u32 {
        let level = self.levels.iter().find(|level| shared_bytes <= level.shared_bytes as usize);
        let size = TEAMS.iter().position(|&blocks| blocks >= team_blocks);
        level.zip(size).map_or(0, |(level, size)| level.teams[size])
    }
}

/// What the planner knows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// What its kernels were compiled with.
    pub geometry: Geometry,
    /// Which kernel it runs.
    pub kernel: Kernel,
    /// How many teams run it at once.
    pub residency: Residency,
    /// How many teams of the grid kernel run at once, where it may take the cluster kernel's place in a launch.
    pub grid_residency: Option<Residency>,
    /// The most shared memory that a block can have.
    pub shared_bytes_max: u32,
    /// How the rows of a launch are laid out.
    pub packing: Packing,
    /// Blocks a row instead of the planner's choice.
    pub team_blocks: Option<u32>,
    /// Whether slices are staged in shared memory where they fit, instead of the planner's choice.
    pub stage: Option<bool>,
}

/// How rows lie in a launch's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Each at a multiple of 128 bytes.
    Aligned,
    /// Each at the next multiple of its dtype's size, one logit after the row before: as callers that
    /// own device memory may lay them out.
    Tight,
}

/// What fits a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Rows.
    pub rows: usize,
    /// Descriptors and logits together, in bytes. At least one row of the largest kind.
    pub input_bytes: usize,
    /// Draws of all rows.
    pub draws: usize,
    /// Tiles of all rows, each counted as the row that has the most.
    pub tiles: usize,
    /// Bytes of what is said of all rows beside their tokens.
    pub answer_bytes: usize,
}

impl Capacity {
    /// Bytes that come back from a launch.
    pub fn output_bytes(&self) -> usize {
        answers_at(self.rows, self.draws) + self.answer_bytes
    }

    /// Bytes of the tiles.
    pub fn tiles_bytes(&self) -> usize {
        self.tiles * 2 * size_of::<u64>()
    }
}

/// Where a row's change lies in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangePlaces {
    /// The mask.
    pub mask_at: usize,
    /// The touched tokens.
    pub touches_at: usize,
    /// The adjusted row, counted from where such rows start; `None` if it takes the place of the stored one.
    pub made_at: Option<usize>,
}

/// Where what is asked of a row lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectPlaces {
    /// What is asked of the sampled logits and of the stored ones, by [`inspect::flags`].
    pub questions: [u32; 2],
    /// The tokens that are asked for, in the input.
    pub ids_at: usize,
    /// The answers to both questions, counted from where answers start in the output.
    pub answers_at: [usize; 2],
    /// The bitmask, likewise.
    pub kept_at: usize,
}

/// The rows of one launch, laid out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// Where each row's logits start in the input.
    pub logits_at: Vec<usize>,
    /// Where each row's ids start, if a race asks for them.
    pub ids_at: Vec<Option<usize>>,
    /// Where each row's draws start among all.
    pub first_draws: Vec<u32>,
    /// Where what is done to each row before lies, if something is.
    pub changes: Vec<Option<ChangePlaces>>,
    /// Where each row goes that a cut leaves beside the one before, counted from where such rows start.
    pub cut_at: Vec<Option<usize>>,
    /// Where what is asked of each row lies, if something is asked beside its tokens.
    pub inspects: Vec<Option<InspectPlaces>>,
    /// Where the descriptors of changes start, those of cuts, and those of what is asked: of sampled rows, and of stored
    /// ones.
    pub descriptors_at: [usize; 4],
    /// Where all descriptors end, those of rows that found no room among them.
    pub descriptors_end: usize,
    /// What is done with each row.
    pub plans: Vec<Plan>,
    /// Draws of all rows.
    pub draws: usize,
    /// Length of the input.
    pub input_bytes: usize,
    /// Where rows start that are made on the device, after everything that comes from elsewhere.
    pub made_at: usize,
    /// Bytes of what is said of all rows beside their tokens.
    pub answer_bytes: usize,
    /// The most tiles of any row.
    pub tile_capacity: usize,
    /// Bytes of the rows that are made.
    made_bytes: usize,
    /// Bytes of the longest slice of a row that a block of a team of one would have.
    row_bytes_max: usize,
    /// Whether a row's every mass is needed.
    weighs_everything: bool,
    /// How many rows take hardly more than that: not those that race, or are cut before.
    weighed_rows: usize,
}

impl Layout {
    /// How many rows there are.
    fn rows(&self) -> u32 {
        self.logits_at.len() as u32
    }

    /// Lays out as many of the first rows as fit, keeping the memory of earlier layouts. At least one
    /// does, whatever the capacity says, if there is any. Rows beyond the last change have none.
    pub fn fill(
        &mut self,
        rows: &[Row<'_>],
        changes: &[Change],
        capacity: &Capacity,
        packing: Packing,
    ) -> usize {
        self.clear();
        // Descriptors are as many as there could be, so that the logits' place is known at once.
        let rows = &rows[..rows.len().min(capacity.rows)];
        let mut end = self.place_descriptors(rows, changes);
        for (i, row) in rows.iter().enumerate() {
            let change = changes.get(i).filter(|change| !change.is_nothing());
            let size = row.dtype().size_bytes();
            let start = match packing {
                Packing::Aligned => end.next_multiple_of(PART_ALIGN),
                Packing::Tight => end.next_multiple_of(size) + size,
            };
            let plan = row.params().plan();
            let logits_end = start + row.bytes();
            let ids_at = races_by_id(row, &plan).then(|| logits_end.next_multiple_of(ID_BYTES));
            let mut row_end =
                ids_at.map_or(logits_end, |at| at + row.vocab_size() as usize * ID_BYTES);
            let mut made_end = self.made_bytes;
            let change_places =
                change.map(|change| place_change(row, change, &mut row_end, &mut made_end));
            let cut_at = place_cut(row, change, &mut made_end);
            let mut answer_end = self.answer_bytes;
            let inspect_places = place_inspect(row, change, &plan, &mut row_end, &mut answer_end);
            let lead = start % 16 / size;
            let tiles = (lead + row.vocab_size() as usize).div_ceil(TILE).max(self.tile_capacity);
            let draws = self.draws + row.params().draws() as usize;
            let fits = row_end.next_multiple_of(PART_ALIGN) + made_end <= capacity.input_bytes
                && answer_end <= capacity.answer_bytes
                && draws <= capacity.draws
                && tiles * (self.logits_at.len() + 1) <= capacity.tiles;
            if !fits && i > 0 {
                break;
            }
            if !fits && rows.len() > 1 {
                // There may be room without the descriptors of others.
                return self.fill(&rows[..1], changes, capacity, packing);
            }
            self.logits_at.push(start);
            self.ids_at.push(ids_at);
            self.changes.push(change_places);
            self.cut_at.push(cut_at);
            self.inspects.push(inspect_places);
            self.first_draws.push(self.draws as u32);
            (self.draws, self.tile_capacity, end) = (draws, tiles, row_end);
            (self.made_bytes, self.answer_bytes) = (made_end, answer_end);
            let sampled = change.map_or(row.dtype(), |change| change.dtype(row)).size_bytes();
            self.row_bytes_max = self.row_bytes_max.max(tiles * TILE * sampled);
            self.weighs_everything |= weighs_everything(&plan);
            let takes_more = CutsBefore::of(row.params()).are_some() || races(&plan);
            self.weighed_rows += usize::from(weighs_everything(&plan) && !takes_more);
            self.plans.push(plan);
        }
        self.made_at = end.next_multiple_of(PART_ALIGN);
        self.input_bytes = if self.made_bytes > 0 { self.made_at + self.made_bytes } else { end };
        self.logits_at.len()
    }

    fn clear(&mut self) {
        self.logits_at.clear();
        self.ids_at.clear();
        self.changes.clear();
        self.cut_at.clear();
        self.inspects.clear();
        self.first_draws.clear();
        self.plans.clear();
        (self.draws, self.tile_capacity, self.row_bytes_max) = (0, 0, 0);
        (self.made_bytes, self.answer_bytes) = (0, 0);
        (self.weighs_everything, self.weighed_rows) = (false, 0);
    }

    /// Makes room for the descriptors of these rows. Where they end.
    fn place_descriptors(&mut self, rows: &[Row<'_>], changes: &[Change]) -> usize {
        let changed = changes.iter().take(rows.len()).filter(|change| !change.is_nothing()).count();
        let asked = rows.iter().filter(|row| row.inspect().is_some()).count();
        let cut = rows.iter().filter(|row| CutsBefore::of(row.params()).are_some()).count();
        let changes_at = rows.len() * size_of::<RowDescriptor>();
        let cuts_at = changes_at + changed * size_of::<AdjustDescriptor>();
        let sampled_at = cuts_at + cut * size_of::<CutDescriptor>();
        let stored_at = sampled_at + asked * size_of::<InspectDescriptor>();
        let stored = if changed > 0 { asked } else { 0 };
        self.descriptors_at = [changes_at, cuts_at, sampled_at, stored_at];
        self.descriptors_end = stored_at + stored * size_of::<InspectDescriptor>();
        self.descriptors_end.next_multiple_of(PART_ALIGN)
    }

    /// Whether a row fits a launch if it is the only one.
    pub fn fits_alone(
        &mut self,
        row: &Row<'_>,
        change: &[Change],
        capacity: &Capacity,
        packing: Packing,
    ) -> bool {
        self.fill(std::slice::from_ref(row), change, capacity, packing);
        self.input_bytes <= capacity.input_bytes && self.answer_bytes <= capacity.answer_bytes
    }
}

/// Whether a row fits a launch alone whatever its adjustments are, by what a token takes at most: its logit and its id,
/// a bit of the mask, its change, its new logit, that again where a cut leaves it; and by the most that is said of it.
pub fn surely_fits(row: &Row<'_>, capacity: &Capacity) -> bool {
    let of_token = 3 * size_of::<f32>() + size_of::<u32>() + 1 + size_of::<TouchedToken>();
    let (asked, said) = row.inspect().map_or((0, 0), |asked| {
        let each = inspect::answer_bytes(asked, row.params().draws() as usize);
        (size_of_val(&*asked.ids), 2 * each + inspect::kept_bytes(row.vocab_size()))
    });
    let few =
        size_of::<RowDescriptor>() + size_of::<AdjustDescriptor>() + size_of::<CutDescriptor>();
    let few = few + 2 * size_of::<InspectDescriptor>() + 8 * PART_ALIGN;
    row.vocab_size() as usize * of_token + asked + few <= capacity.input_bytes
        && said + size_of::<u64>() <= capacity.answer_bytes
}

/// Makes room for a row's change behind it, and for the adjusted row behind all others that are made.
fn place_change(row: &Row<'_>, change: &Change, end: &mut usize, made: &mut usize) -> ChangePlaces {
    let mask_at = end.next_multiple_of(size_of::<u32>());
    let touches_at =
        (mask_at + size_of_val(&*change.mask)).next_multiple_of(size_of::<TouchedToken>());
    *end = touches_at + change.touches.len() * size_of::<TouchedToken>();
    let made_at = change.is_apart().then_some(*made);
    if change.is_apart() {
        let bytes = row.vocab_size() as usize * change.dtype(row).size_bytes();
        *made = (*made + bytes).next_multiple_of(PART_ALIGN);
    }
    ChangePlaces { mask_at, touches_at, made_at }
}

/// Makes room for the row that a cut leaves behind all others that are made, if it stays beside the one before.
fn place_cut(row: &Row<'_>, change: Option<&Change>, made: &mut usize) -> Option<usize> {
    let at = *made;
    let size = change.map_or(row.dtype(), |change| change.dtype(row)).size_bytes();
    CutsBefore::of(row.params()).are_apart(row).then(|| {
        *made = (at + row.vocab_size() as usize * size).next_multiple_of(PART_ALIGN);
        at
    })
}

/// Makes room for what is asked of a row behind it, and for what is said behind what is said of others.
fn place_inspect(
    row: &Row<'_>,
    change: Option<&Change>,
    plan: &Plan,
    end: &mut usize,
    answer: &mut usize,
) -> Option<InspectPlaces> {
    let asked = row.inspect()?;
    let questions = inspect::questions(asked, plan, change);
    let ids_at = end.next_multiple_of(size_of::<u32>());
    *end = ids_at + size_of_val(&*asked.ids);
    let answers_at = questions.map(|question| {
        let at = *answer;
        let bytes = inspect::answer_bytes(asked, row.params().draws() as usize);
        *answer += if question == 0 { 0 } else { bytes };
        at
    });
    let kept_at = *answer;
    if questions[0] & inspect::flags::SAY_KEPT > 0 {
        *answer =
            (*answer + inspect::kept_bytes(row.vocab_size())).next_multiple_of(size_of::<u64>());
    }
    Some(InspectPlaces { questions, ids_at, answers_at, kept_at })
}

/// Whether a row's draws are races of tokens with ids of their own.
fn races_by_id(row: &Row<'_>, plan: &Plan) -> bool {
    races(plan) && row.has_ids()
}

/// Whether a row's draws are races.
fn races(plan: &Plan) -> bool {
    matches!(plan, Plan::Draw(chain) if chain.rule == DrawRule::Race)
}

/// Whether a row's every mass is needed: unless top-k comes first, or none is.
fn weighs_everything(plan: &Plan) -> bool {
    match plan {
        Plan::Greedy => false,
        Plan::Draw(chain) => !matches!(chain.steps(), [Step::TopK(_), ..]),
    }
}

/// How a layout is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// The kernel.
    pub kernel: Kernel,
    /// Blocks that share a row.
    pub team_blocks: u32,
    /// Shared memory a block.
    pub shared_bytes: u32,
    /// How much of it holds the block's slice of its row; 0: none.
    pub stage_bytes: u32,
}

impl LaunchShape {
    /// Chooses for a layout.
    pub fn choose(layout: &Layout, properties: &Properties) -> Self {
        let keys = (layout.tile_capacity * size_of::<u32>()).next_multiple_of(16);
        let base = properties.geometry.shared_bytes as usize + keys;
        let (kernel, residency, widest) = choose_kernel(layout, properties, base);
        let team_blocks = properties.team_blocks.unwrap_or(widest);
        // A block's tiles are those of its row shared out, rounded up; each as large as the largest.
        let tile_bytes = layout.row_bytes_max / layout.tile_capacity.max(1);
        let slice = layout.tile_capacity.div_ceil(team_blocks as usize) * tile_bytes;
        let staged = base + slice;
        let wanted = properties.stage.unwrap_or_else(|| {
            layout.weighs_everything
                && costs_no_wave(layout, residency, team_blocks, [base, staged])
        });
        let fits = staged <= properties.shared_bytes_max as usize;
        let stage = if wanted && fits { slice } else { 0 };
        Self { kernel, team_blocks, shared_bytes: (base + stage) as u32, stage_bytes: stage as u32 }
    }
}

/// The kernel of a launch, how many of its teams run at once, and how many blocks share a row.
///
/// The barrier of a cluster is the faster one. But a chip has room for fewer clusters than for teams that may lie
/// anywhere, and a wider team gains more than the barrier: where the grid kernel has one that is wider, it is taken.
fn choose_kernel<'a>(
    layout: &Layout,
    properties: &'a Properties,
    shared_bytes: usize,
) -> (Kernel, &'a Residency, u32) {
    let Properties { kernel, residency, grid_residency, .. } = properties;
    let team = |residency, kernel| {
        widest_team(layout, properties, residency, kernel == Kernel::Cluster, shared_bytes)
    };
    let own = team(residency, *kernel);
    match grid_residency.as_ref().map(|grid| (grid, team(grid, Kernel::Grid))) {
        Some((grid, wider)) if wider > own => (Kernel::Grid, grid, wider),
        _ => (*kernel, residency, own),
    }
}

/// As many blocks a row as let all rows run at once, but no warp without a tile.
///
/// Where every row is weighed as a whole, clusters of two in two waves take less than single blocks in one: on an H200 215 us in place
/// of 255 for 192 rows of 128,256 tokens with top_p, 237 in place of 260 for 256 rows; without a cut 78 in place of 86, and 87 of 89. Pairs of
/// the grid kernel do not without a cut.
fn widest_team(
    layout: &Layout,
    properties: &Properties,
    residency: &Residency,
    is_cluster: bool,
    shared_bytes: usize,
) -> u32 {
    let warps = properties.geometry.threads / 32;
    let fits = |team: u32| {
        let gains = team == 2 && is_cluster && layout.weighed_rows == layout.logits_at.len();
        let waves = if gains { 2 } else { 1 };
        layout.rows() <= waves * residency.teams_at_once(team, shared_bytes)
            && (team - 1) * warps < layout.tile_capacity as u32
    };
    TEAMS.into_iter().rev().find(|&team| fits(team)).unwrap_or(1)
}

/// Whether as many of the rows run at once with staged slices as without: what waits for a second wave takes as long
/// again, which is more than the L2 cache does to serve a second reading.
fn costs_no_wave(
    layout: &Layout,
    residency: &Residency,
    team_blocks: u32,
    shared_bytes: [usize; 2],
) -> bool {
    let [base, staged] =
        shared_bytes.map(|bytes| residency.teams_at_once(team_blocks, bytes).min(layout.rows()));
    staged >= base
}

/// Where the draws start in a launch's output, after the outcomes.
pub fn draws_at(rows: usize) -> usize {
    (rows * size_of::<RowOutcome>()).next_multiple_of(PART_ALIGN)
}

/// Where what is said of rows beside their tokens starts in a launch's output, after the draws.
pub fn answers_at(rows: usize, draws: usize) -> usize {
    (draws_at(rows) + draws * size_of::<RowDraw>()).next_multiple_of(PART_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Dtype;
    use crate::inspection::Inspect;
    use crate::params::{ParamsSpec, SamplingParams};

    const GEOMETRY: Geometry = Geometry {
        threads: 256,
        list: 1024,
        count_bins: 4096,
        mass_bins: 1024,
        shared_bytes: 16 << 10,
        scratch_bytes: 64 << 10,
    };

    /// A chip with 132 multiprocessors, in groups of 16 and 18. Two blocks to each, or one with much shared memory.
    const LARGE: Properties = Properties {
        geometry: GEOMETRY,
        kernel: Kernel::Cluster,
        residency: Residency {
            levels: [
                Level { shared_bytes: 33 << 10, teams: [264, 132, 66, 32] },
                Level { shared_bytes: 113 << 10, teams: [264, 132, 66, 32] },
                Level { shared_bytes: 227 << 10, teams: [132, 66, 32, 16] },
            ],
        },
        grid_residency: None,
        shared_bytes_max: 227 << 10,
        packing: Packing::Aligned,
        team_blocks: None,
        stage: None,
    };

    const CAPACITY: Capacity = Capacity {
        rows: 512,
        input_bytes: 128 << 20,
        draws: 1 << 16,
        tiles: 1 << 20,
        answer_bytes: 1 << 20,
    };

    fn params(top_k: u32, draws: u32) -> SamplingParams {
        ParamsSpec { top_k, draws, ..Default::default() }.parse(|| 0).unwrap()
    }

    fn shape(rows: usize, vocab_size: usize, top_k: u32) -> LaunchShape {
        shape_on(&LARGE, rows, vocab_size, top_k)
    }

    fn shape_on(device: &Properties, rows: usize, vocab_size: usize, top_k: u32) -> LaunchShape {
        let logits = vec![0; vocab_size * 2];
        let rows = vec![Row::new(Dtype::F16, &logits, params(top_k, 1)).unwrap(); rows];
        let mut layout = Layout::default();
        assert_eq!(layout.fill(&rows, &[], &CAPACITY, Packing::Aligned), rows.len());
        LaunchShape::choose(&layout, device)
    }

    /// A row that fits alone has all the room, whatever the descriptors of those behind it would take.
    #[test]
    fn a_launch_is_within_its_room_wherever_a_row_that_just_fits_comes() {
        let (kept_ids_max, ids, of) = (Some(0), [].into(), [true; 3]);
        let asked = Inspect { of, top: 1, ids, kept_ids_max, continuations: None };
        let capacity = Capacity { input_bytes: 64 << 10, ..CAPACITY };
        let logits = vec![0; capacity.input_bytes];
        let row = |bytes| Row::new(Dtype::F16, &logits[..bytes], params(50, 1)).unwrap();
        let largest = (1..).map(|n| row(capacity.input_bytes - 2 * n).with_inspect(Some(&asked)));
        let mut layout = Layout::default();
        let fits = |row: &Row<'_>| layout.fits_alone(row, &[], &capacity, Packing::Aligned);
        let largest = largest.into_iter().find(fits).unwrap();
        let small = row(2).with_inspect(Some(&asked));
        for place in [0, 1, 40] {
            let mut rows = vec![small; 200];
            rows[place] = largest;
            let mut at = 0;
            while at < rows.len() {
                at += layout.fill(&rows[at..], &[], &capacity, Packing::Aligned);
                assert!(layout.input_bytes <= capacity.input_bytes, "{place}, up to row {at}");
            }
        }
    }

    #[test]
    fn few_rows_are_split_and_many_are_not() {
        assert_eq!(shape(1, 128_256, 50).team_blocks, 8);
        assert_eq!(shape(64, 128_256, 50).team_blocks, 4);
        assert_eq!(shape(128, 128_256, 50).team_blocks, 2);
        assert_eq!(shape(200, 128_256, 50).team_blocks, 1);
        assert_eq!(shape(1, 100, 50).team_blocks, 1);
        assert_eq!(shape(1, 256 * 9, 50).team_blocks, 2);
    }

    #[test]
    fn rows_that_are_weighed_run_in_pairs_in_two_waves() {
        let team = |device: &Properties, rows, more: &[ParamsSpec]| {
            let logits = vec![0; 128_256 * 2];
            let specs =
                std::iter::repeat_n(ParamsSpec::default(), rows).chain(more.iter().copied());
            let row = |spec: ParamsSpec| Row::new(Dtype::F16, &logits, spec.parse(|| 0).unwrap());
            let rows: Vec<_> = specs.map(|spec| row(spec).unwrap()).collect();
            let mut layout = Layout::default();
            assert_eq!(layout.fill(&rows, &[], &CAPACITY, Packing::Aligned), rows.len());
            LaunchShape::choose(&layout, device).team_blocks
        };
        assert_eq!([132, 133, 264, 265].map(|rows| team(&LARGE, rows, &[])), [2, 2, 2, 1]);
        let off = ParamsSpec::default();
        assert_eq!(team(&LARGE, 200, &[ParamsSpec { top_p: 0.9, ..off }]), 2);
        for other in [
            ParamsSpec { top_k: 50, ..off },
            ParamsSpec { temperature: 0.0, ..off },
            ParamsSpec { draw_rule: DrawRule::Race, ..off },
            ParamsSpec { typical_p: 0.9, ..off },
        ] {
            assert_eq!(team(&LARGE, 200, &[other]), 1, "{other:?}");
        }
        let mut grid = Properties { kernel: Kernel::Grid, ..LARGE };
        grid.residency = Residency::of_blocks(264, 227 << 10);
        assert_eq!(team(&grid, 200, &[]), 1);
    }

    #[test]
    fn all_rows_run_at_once_where_clusters_are_fewer_than_blocks() {
        let mut device = LARGE;
        device.residency.levels[0].teams = [264, 128, 60, 0];
        let team = |rows| shape_on(&device, rows, 128_256, 50).team_blocks;
        assert_eq!([1, 60, 61, 64, 128, 129].map(team), [4, 4, 2, 2, 2, 1]);
        device.kernel = Kernel::Grid;
        device.residency = Residency::of_blocks(264, 227 << 10);
        let team = |rows| shape_on(&device, rows, 128_256, 50).team_blocks;
        assert_eq!([33, 34, 66, 67, 132, 133].map(team), [8, 4, 4, 2, 2, 1]);
    }

    #[test]
    fn the_grid_kernel_is_taken_where_its_team_is_wider() {
        let mut device = LARGE;
        device.residency.levels[0].teams = [264, 128, 60, 28];
        device.grid_residency = Some(Residency::of_blocks(264, 227 << 10));
        let shape = |rows| {
            let shape = shape_on(&device, rows, 128_256, 50);
            (shape.kernel, shape.team_blocks)
        };
        let (cluster, grid) = (Kernel::Cluster, Kernel::Grid);
        assert_eq!([1, 28].map(shape), [(cluster, 8); 2]);
        assert_eq!([29, 33].map(shape), [(grid, 8); 2]);
        assert_eq!([34, 60, 61, 66].map(shape), [(cluster, 4), (cluster, 4), (grid, 4), (grid, 4)]);
        assert_eq!([67, 128, 129].map(shape), [(cluster, 2), (cluster, 2), (grid, 2)]);
        assert_eq!(shape(200), (cluster, 1));
    }

    #[test]
    fn a_slice_that_costs_a_second_wave_is_not_staged() {
        // 131 KB a block leave room for one on a multiprocessor: 32 clusters of four.
        assert_eq!(shape(60, 262_144, 0).stage_bytes, 0);
        assert_eq!(shape(32, 262_144, 0).stage_bytes, 128 * 512, "two blocks of eight fit");
        assert_eq!(shape(128, 128_256, 0).stage_bytes, 0);
        // With more rows than run at once, what matters is how many of them do.
        assert_eq!(shape(512, 32_000, 0).stage_bytes, 125 * 512);
        let forced = Properties { stage: Some(true), ..LARGE };
        assert_eq!(shape_on(&forced, 128, 128_256, 0).stage_bytes, 251 * 512);
    }

    #[test]
    fn slices_are_staged_where_every_mass_is_needed_and_they_fit() {
        assert_eq!(shape(64, 128_256, 50).stage_bytes, 0);
        assert_eq!(shape(64, 128_256, 0).stage_bytes, 501_usize.div_ceil(4) as u32 * 512);
        assert_eq!(shape(300, 128_256, 0).stage_bytes, 0, "one block cannot hold 256.5 KB");
    }

    #[test]
    fn rows_that_do_not_fit_wait_for_the_next_launch() {
        let logits = vec![0; 5000 * 2];
        let rows = vec![Row::new(Dtype::Bf16, &logits, params(0, 3)).unwrap(); 9];
        let mut layout = Layout::default();
        let mut fill = |change: fn(&mut Capacity)| {
            let mut capacity = CAPACITY;
            change(&mut capacity);
            layout.fill(&rows, &[], &capacity, Packing::Aligned)
        };
        assert_eq!(fill(|_| ()), 9);
        assert_eq!(fill(|c| c.rows = 4), 4);
        assert_eq!(fill(|c| c.draws = 8), 2);
        assert_eq!(fill(|c| c.tiles = 63), 3, "20 tiles each");
        assert_eq!(fill(|c| c.input_bytes = 52_000), 5);
        assert_eq!(fill(|c| c.draws = 0), 1, "one row is always taken");
    }

    #[test]
    fn rows_packed_tightly_do_not_touch() {
        let logits = [0; 12];
        let rows = [Dtype::F16, Dtype::F32, Dtype::Bf16]
            .map(|dtype| Row::new(dtype, &logits, params(0, 1)).unwrap());
        let mut layout = Layout::default();
        layout.fill(&rows, &[], &CAPACITY, Packing::Tight);
        assert_eq!(layout.logits_at, [256 + 2, 256 + 20, 256 + 34]);
        layout.fill(&rows, &[], &CAPACITY, Packing::Aligned);
        assert_eq!(layout.logits_at, [256, 384, 512]);
    }
}
