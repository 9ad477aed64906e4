//! The tokens of a sequence, which grow from step to step.

use crate::arrays::array_of;
use crate::tokens::{ids, whole};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The history of a sequence: `history = logitd.History(prompt)`, then in each step `sample(x, history=history, ..)` and
/// `history.append(token)`. The same as `prompt` and `output`, which are read anew in each call.
///
/// For several rows: `history=[one, another, None]`.
#[pyclass(frozen, module = "logitd")]
pub struct History(Mutex<Tokens>);

struct Tokens {
    all: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
}

impl History {
    /// The prompt and the output.
    pub fn parts(&self) -> (Vec<u32>, Vec<u32>) {
        let tokens = self.tokens();
        let (prompt, output) = tokens.all.split_at(tokens.prompt);
        (prompt.to_vec(), output.to_vec())
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl History {
    #[new]
    #[pyo3(signature = (prompt=None, output=None))]
    fn new(prompt: Option<&Bound<'_, PyAny>>, output: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let mut all = prompt.map_or(Ok(vec![]), |prompt| ids("prompt", prompt))?;
        let prompt = all.len();
        all.extend(output.map_or(Ok(vec![]), |output| ids("output", output))?);
        Ok(Self(Mutex::new(Tokens { all, prompt })))
    }

    /// Adds a token to the output.
    fn append(&self, token: &Bound<'_, PyAny>) -> PyResult<()> {
        let token = whole("token", token)?;
        self.tokens().all.push(token);
        Ok(())
    }

    /// Adds tokens to the output.
    fn extend(&self, tokens: &Bound<'_, PyAny>) -> PyResult<()> {
        let added = ids("tokens", tokens)?;
        self.tokens().all.extend(added);
        Ok(())
    }

    /// Forgets the tokens of the output but for the first so many: those of a draft that was not taken.
    fn truncate(&self, output_length: usize) -> PyResult<()> {
        let mut tokens = self.tokens();
        let most = tokens.all.len() - tokens.prompt;
        if output_length > most {
            return Err(PyValueError::new_err(format!(
                "output_length is {output_length}; allowed: 0 to {most}, the tokens that the output has"
            )));
        }
        let length = tokens.prompt + output_length;
        tokens.all.truncate(length);
        Ok(())
    }

    /// The tokens of the prompt. uint32.
    #[getter]
    fn prompt<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array_of(py, "uint32", self.parts().0.into_iter().map(u32::to_ne_bytes))
    }

    /// The tokens of the output. uint32.
    #[getter]
    fn output<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array_of(py, "uint32", self.parts().1.into_iter().map(u32::to_ne_bytes))
    }

    fn __len__(&self) -> usize {
        self.tokens().all.len()
    }

    fn __repr__(&self) -> String {
        let tokens = self.tokens();
        format!("History(prompt={}, output={})", tokens.prompt, tokens.all.len() - tokens.prompt)
    }
}
