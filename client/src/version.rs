//! What a server must know for a request: a field that it does not know it would leave out without a word.

use super::{Error, Service};
use logitd_proto::{DrawRule, GetInfoRequest, SampleRequest};
use std::sync::{Arc, OnceLock};

/// The version of the arithmetic that came with the fields of [`new_field`].
const NEEDED: u32 = 2;

/// The version of a server's arithmetic: asked for once, when a request first needs to know.
#[derive(Clone, Debug)]
pub(super) struct Version {
    service: Service,
    known: Arc<OnceLock<u32>>,
}

impl Version {
    pub fn new(service: Service) -> Self {
        Self { service, known: Arc::default() }
    }

    /// Refuses a request that this server would answer without one of its fields.
    pub async fn check(&self, request: &SampleRequest) -> Result<(), Error> {
        let Some(field) = new_field(request) else { return Ok(()) };
        let version = match self.known.get() {
            Some(&version) => version,
            None => {
                let info = self.service.clone().get_info(GetInfoRequest {}).await?.into_inner();
                *self.known.get_or_init(|| info.arithmetic_version)
            }
        };
        knows(version, field)
    }
}

/// The same for a server of a version that the caller knows.
pub(super) fn check(request: &SampleRequest, version: u32) -> Result<(), Error> {
    new_field(request).map_or(Ok(()), |field| knows(version, field))
}

fn knows(version: u32, field: String) -> Result<(), Error> {
    if version >= NEEDED {
        return Ok(());
    }
    Err(Error::Version { field, needed: NEEDED, version })
}

/// The path of a field that servers of version 1 do not know, if the request has one.
fn new_field(request: &SampleRequest) -> Option<String> {
    let is_new = |rule: i32| {
        rule != i32::from(DrawRule::Unspecified) && rule != i32::from(DrawRule::Cumulative)
    };
    let set = request.params.iter().position(|params| is_new(params.draw_rule))?;
    Some(format!("params[{set}].draw_rule"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::SamplingParams;

    #[test]
    fn what_an_old_server_would_leave_out_is_refused_by_name() {
        let with = |rule: DrawRule| SampleRequest {
            params: vec![
                SamplingParams::default(),
                SamplingParams { draw_rule: rule.into(), ..Default::default() },
            ],
            ..Default::default()
        };
        for rule in [DrawRule::Unspecified, DrawRule::Cumulative] {
            assert!(check(&with(rule), 1).is_ok(), "what version 1 does");
        }
        assert!(check(&with(DrawRule::Race), 2).is_ok());
        let error = check(&with(DrawRule::Race), 1).unwrap_err().to_string();
        assert!(error.contains("params[1].draw_rule"), "{error}");
        assert!(error.contains("version 2") && error.contains("has 1"), "{error}");
    }
}
