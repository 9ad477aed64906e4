//! The tokens of a row, from what is kept of it: by its draft, where it has one, else by its draws.

use super::draft::{self, Known, Said, decide, mass_of};
use super::draw::{self, Stream, draw};
use super::element::Element;
use super::passes::ScannedRow;
use super::race::{self, race};
use super::search::Kept;
use super::simd::Simd;
use crate::arithmetic::draw::DrawRule;
use crate::arithmetic::logprob::logprob;
use crate::batch::{Draw, Row, RowStatus};

/// Memory for that.
#[derive(Default)]
pub struct Buffers {
    pub draw: draw::Buffers,
    pub race: race::Buffers,
    pub draft: draft::Buffers,
}

/// Where the tokens of a row go.
pub struct Places<'a> {
    pub draws: &'a mut [Draw],
    /// Whether the row takes its draft, where it has one.
    pub accepted: Option<&'a mut Option<bool>>,
}

/// Takes the tokens of a row that is not greedy, and returns the mass of what is kept. An error is the status of the row
/// that its draft was drawn from.
pub fn take<S: Simd, E: Element>(
    scanned: &ScannedRow<'_, S, E>,
    row: &Row<'_>,
    kept: Kept<'_>,
    proposed: Known<'_>,
    buffers: &mut Buffers,
    places: Places<'_>,
) -> Result<u64, RowStatus> {
    let Places { draws, accepted } = places;
    if row.draft().is_some() {
        let said = decide(scanned, row, kept, proposed, &mut buffers.draft)?;
        if let Some(accepted) = accepted {
            *accepted = Some(said.is_some_and(|said| said.is_draft));
        }
        if let Some(Said { token, x, .. }) = said {
            let (kept_mass, weights) = (mass_of(kept), scanned.weights);
            let logprob = logprob(x + 0.0, weights.max, weights.scale, kept_mass);
            draws.fill(Draw { token, logprob });
            return Ok(kept_mass);
        }
    }
    let stream = Stream::of(row.params());
    Ok(match row.params().draw_rule() {
        DrawRule::Cumulative => draw(scanned, kept, stream, &mut buffers.draw, draws),
        DrawRule::Race => race(scanned, row, kept, stream, &mut buffers.race, draws),
    })
}

/// Says the first token of a greedy row. An error is the status of the row that its draft was drawn from.
pub fn say_first(
    row: &Row<'_>,
    token: u32,
    proposed: Known<'_>,
    places: Places<'_>,
) -> Result<(), RowStatus> {
    if row.draft().is_some() {
        let is_draft = draft::is_first(row, token, proposed)?;
        if let Some(accepted) = places.accepted {
            *accepted = Some(is_draft);
        }
    }
    places.draws.fill(Draw { token, logprob: 0.0 });
    Ok(())
}
