//! Where a setting comes from: a flag, a variable, or a key of the file. What is wrong with it is said of that.

use super::{ConfigError, command};
use crate::wire::names::nearest;
use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::Path;

const PREFIX: &str = "LOGITD_";
/// Variables of the tests, which reach the programs that they start.
const OF_TESTS: [&str; 4] = ["LOGITD_TEST_", "LOGITD_REQUIRE_", "LOGITD_RENEW_", "LOGITD_SOAK_"];

/// Refuses a variable that looks like one of logitd's and is none: it would be ignored in silence.
pub fn check_variables(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), ConfigError> {
    let command = command();
    let known: Vec<&str> = (command.get_arguments())
        .filter_map(|arg| arg.get_env()?.to_str()?.strip_prefix(PREFIX))
        .collect();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let of_others = OF_TESTS.iter().any(|prefix| name.starts_with(prefix))
            || is_of_kubernetes(rest, &value.to_string_lossy());
        if known.contains(&rest) || of_others {
            continue;
        }
        let meant = match nearest(rest, known.iter().copied()) {
            Some(meant) => format!("did you mean {PREFIX}{meant}?"),
            None => "logitd serve --help lists them; unset it".into(),
        };
        return Err(ConfigError::Invalid(format!("{name} is no variable of logitd; {meant}")));
    }
    Ok(())
}

/// For a service named logitd, Kubernetes gives containers LOGITD_SERVICE_HOST, LOGITD_PORT and others.
fn is_of_kubernetes(rest: &str, value: &str) -> bool {
    let port_of_number =
        rest.split("PORT_").skip(1).any(|after| after.starts_with(|c: char| c.is_ascii_digit()));
    rest.contains("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || port_of_number
        || (rest.ends_with("PORT") && value.contains("://"))
}

/// An error of a value, said of the variable, or of the key of this file, that has it; any other as it is. Of a
/// setting of the server that is 0 it says what else could be meant.
pub fn blame(mut error: clap::Error, args: &[OsString], file: Option<&Path>) -> ConfigError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let (Some(arg), Some(value)) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue))
    else {
        return error.into();
    };
    let flag = arg.split([' ', '=', '[']).next().unwrap_or_default();
    let of_serve = args.iter().take(2).any(|arg| arg == "serve");
    let instead = if of_serve { instead_of_zero(flag, &value) } else { None };
    if !flag.starts_with("--") || is_given(flag, args) {
        if let Some(instead) = instead {
            let tip = ContextValue::StyledStrs(vec![instead.into()]);
            error.insert(ContextKind::Suggested, tip);
        }
        return error.into();
    }
    let (variable, key) = (variable_of(flag), key_of(flag));
    let reason = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(valid))) => format!("allowed: {}", valid.join(", ")),
        _ => "is not accepted".into(),
    };
    let reason = instead.map_or(reason.clone(), |instead| format!("{reason}; {instead}"));
    match file {
        _ if std::env::var_os(&variable).is_some() => {
            ConfigError::Invalid(format!("{variable} is {value:?}: {reason}"))
        }
        Some(path) => {
            ConfigError::File { path: path.into(), reason: format!("{key} is {value:?}: {reason}") }
        }
        None => error.into(),
    }
}

/// What the settings of these names are of no use without.
const PARTS: [(&str, &str); 4] = [
    ("--shm-", "--shm"),
    ("--admin-", "--admin-listen"),
    ("--record-", "--record"),
    ("--verify-dumps-", "--verify-dump-dir"),
];

/// What whoever sets a limit or a time to 0 can do instead; `None` where that is not what is wrong.
fn instead_of_zero(flag: &str, value: &str) -> Option<String> {
    let number = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let is_zero = number.parse::<f64>() == Ok(0.0);
    let command = command();
    let arg = command.get_arguments().find(|arg| arg.get_id() == &key_of(flag))?;
    let name = arg.get_value_names()?.first()?.as_str();
    // Where the default is 0, it means something.
    let means_something = arg.get_default_values().first().is_some_and(|value| value == "0");
    if !is_zero || means_something || !["N", "BYTES", "TIME"].contains(&name) {
        return None;
    }
    let mut text = "0 means neither off nor without limit".to_owned();
    if let Some(default) = arg.get_default_values().first() {
        text += &format!("; the default is {}", default.to_string_lossy());
    }
    if let Some((_, part)) = PARTS.iter().find(|(prefix, _)| flag.starts_with(prefix)) {
        text += &format!("; off is {part} left out");
    }
    Some(text)
}

/// An error about settings, with where those come from that are no flags.
pub fn with_origins(
    error: ConfigError,
    matches: &ArgMatches,
    file: Option<(&Path, &[String])>,
) -> ConfigError {
    let ConfigError::Invalid(text) = error else { return error };
    let mut origins: Vec<String> = Vec::new();
    for flag in text.split(|c: char| !(c.is_ascii_lowercase() || c == '-')) {
        let key = key_of(flag);
        if !flag.starts_with("--") || !matches.try_contains_id(&key).unwrap_or(false) {
            continue;
        }
        let origin = match (matches.value_source(&key), file) {
            (Some(ValueSource::EnvVariable), _) => {
                format!("{flag} is set by {}", variable_of(flag))
            }
            (Some(ValueSource::DefaultValue), Some((path, keys))) if keys.contains(&key) => {
                format!("{flag} is set by {key} in {}", path.display())
            }
            _ => continue,
        };
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    match origins.is_empty() {
        true => ConfigError::Invalid(text),
        false => ConfigError::Invalid(format!("{text} ({})", origins.join("; "))),
    }
}

fn is_given(flag: &str, args: &[OsString]) -> bool {
    args.iter().filter_map(|arg| arg.to_str()).any(|arg| {
        arg.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// `--queue-rows-max` as `LOGITD_QUEUE_ROWS_MAX`.
fn variable_of(flag: &str) -> String {
    format!("{PREFIX}{}", key_of(flag).to_uppercase())
}

/// `--queue-rows-max` as `queue_rows_max`.
fn key_of(flag: &str) -> String {
    flag.trim_start_matches('-').replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_refused_with_what_was_meant() {
        let check = |name: &str, value: &str| {
            check_variables([(name.into(), value.into())]).map_err(|error| error.to_string())
        };
        for (name, part) in [
            ("LOGITD_QEUE_ROWS_MAX", "did you mean LOGITD_QUEUE_ROWS_MAX?"),
            ("LOGITD_THREAD", "did you mean LOGITD_THREADS?"),
            ("LOGITD_listen", "logitd serve --help"),
            ("LOGITD_XYZ", "LOGITD_XYZ is no variable of logitd; logitd serve --help"),
        ] {
            let error = check(name, "5").unwrap_err();
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(check("LOGITD_PORT", "50052").is_err());
        for (name, value) in [
            ("LOGITD_QUEUE_ROWS_MAX", "5"),
            ("LOGITD_CONFIG", "x"),
            ("LOGITD_TEST_SEED", "5"),
            ("LOGITD_REQUIRE_GPU", "1"),
            ("PATH", "/bin"),
            ("MY_LOGITD_X", "1"),
            ("LOGITD_PORT", "tcp://10.0.0.1:50051"),
            ("LOGITD_SERVICE_HOST", "10.0.0.1"),
            ("LOGITD_SERVICE_PORT_GRPC", "50051"),
            ("LOGITD_PORT_50051_TCP_ADDR", "10.0.0.1"),
            ("LOGITD_BLUE_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ] {
            assert_eq!(check(name, value), Ok(()), "{name}");
        }
    }
}
