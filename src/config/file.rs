//! The TOML file: its values take the place of the flags' defaults.

use super::ConfigError;
use crate::wire::names::nearest;
use clap::{ArgAction, Command};
use std::path::Path;
use toml::{Table, Value};

/// `command`, with the defaults that the file at `path` sets, and their keys.
pub fn apply(command: Command, path: &Path) -> Result<(Command, Vec<String>), ConfigError> {
    let error = |reason: String| ConfigError::File { path: path.into(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string()))?;
    let keys = table.keys().cloned().collect();
    let command = table
        .into_iter()
        .try_fold(command, |command, (key, value)| set(command, &key, value).map_err(error))?;
    Ok((command, keys))
}

fn set(command: Command, key: &str, value: Value) -> Result<Command, String> {
    let known = |name: &str| name != "config" && name != "help";
    let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == key && known(key)) else {
        let names: Vec<_> = command
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .filter(|id| known(id))
            .collect();
        let meant = nearest(key, names.iter().copied());
        let meant = meant.map_or(String::new(), |name| format!(" (did you mean {name}?)"));
        return Err(format!("unknown key {key}{meant}; known: {}", names.join(", ")));
    };
    let values = match value {
        Value::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
            values.into_iter().map(|value| text(key, value)).collect::<Result<_, _>>()?
        }
        value => vec![text(key, value)?],
    };
    Ok(command.mut_arg(key, |arg| arg.default_values(values)))
}

fn text(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(switch) => Ok(switch.to_string()),
        other => Err(format!("{key} is {other}; a string, a number or true/false is wanted")),
    }
}
