//! llama.cpp's chain of samplers, through its C API, from a library that is opened at run time.
//!
//! What is declared here is from `include/llama.h`, of the release that first tells its version (`llama_version`): a library
//! without that function has other signatures, and is refused.

use crate::cases::{Case, SEED};
use crate::peer::{Made, Peer, Sampler};
use crate::rows::{Rows, VOCAB_SIZE};
use libloading::Library;
use std::error::Error;
use std::ffi::{CStr, c_char};
use std::path::Path;

/// `llama_sampler`, which is only pointed to.
#[repr(C)]
struct Chain {
    _opaque: [u8; 0],
}

/// `llama_sampler_chain_params`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ChainParams {
    no_perf: bool,
}

/// `llama_token_data`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Candidate {
    id: i32,
    logit: f32,
    p: f32,
}

/// `llama_token_data_array`.
#[repr(C)]
struct Candidates {
    data: *mut Candidate,
    size: usize,
    selected: i64,
    sorted: bool,
}

/// The functions that are called.
struct Api {
    version: unsafe extern "C" fn() -> *const c_char,
    chain_params: unsafe extern "C" fn() -> ChainParams,
    chain: unsafe extern "C" fn(ChainParams) -> *mut Chain,
    add: unsafe extern "C" fn(*mut Chain, *mut Chain),
    free: unsafe extern "C" fn(*mut Chain),
    accept: unsafe extern "C" fn(*mut Chain, i32),
    apply: unsafe extern "C" fn(*mut Chain, *mut Candidates),
    greedy: unsafe extern "C" fn() -> *mut Chain,
    dist: unsafe extern "C" fn(u32) -> *mut Chain,
    temperature: unsafe extern "C" fn(f32) -> *mut Chain,
    top_k: unsafe extern "C" fn(i32) -> *mut Chain,
    top_p: unsafe extern "C" fn(f32, usize) -> *mut Chain,
    min_p: unsafe extern "C" fn(f32, usize) -> *mut Chain,
    typical_p: unsafe extern "C" fn(f32, usize) -> *mut Chain,
    top_n_sigma: unsafe extern "C" fn(f32) -> *mut Chain,
    xtc: unsafe extern "C" fn(f32, f32, usize, u32) -> *mut Chain,
    penalties: unsafe extern "C" fn(i32, i32, f32, f32, f32) -> *mut Chain,
    /// Last, so that the functions are there as long as they can be called.
    _library: Library,
}

/// llama.cpp.
pub struct LlamaCpp(Api);

impl LlamaCpp {
    /// Opens a `libllama.so`.
    pub fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        // SAFETY: what runs when a library is opened is the library's; the caller has named it.
        let library = unsafe { Library::new(path) }?;
        /// A function of the library.
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field's type is the signature in llama.h.
                *unsafe { library.get($name) }.map_err(|error| {
                    format!("{} has no sampler API of today: {error}", path.display())
                })?
            };
        }
        Ok(Self(Api {
            version: function!(b"llama_version\0"),
            chain_params: function!(b"llama_sampler_chain_default_params\0"),
            chain: function!(b"llama_sampler_chain_init\0"),
            add: function!(b"llama_sampler_chain_add\0"),
            free: function!(b"llama_sampler_free\0"),
            accept: function!(b"llama_sampler_accept\0"),
            apply: function!(b"llama_sampler_apply\0"),
            greedy: function!(b"llama_sampler_init_greedy\0"),
            dist: function!(b"llama_sampler_init_dist\0"),
            temperature: function!(b"llama_sampler_init_temp\0"),
            top_k: function!(b"llama_sampler_init_top_k\0"),
            top_p: function!(b"llama_sampler_init_top_p\0"),
            min_p: function!(b"llama_sampler_init_min_p\0"),
            typical_p: function!(b"llama_sampler_init_typical\0"),
            top_n_sigma: function!(b"llama_sampler_init_top_n_sigma\0"),
            xtc: function!(b"llama_sampler_init_xtc\0"),
            penalties: function!(b"llama_sampler_init_penalties\0"),
            _library: library,
        }))
    }
}

impl Peer for LlamaCpp {
    fn name(&self) -> &'static str {
        "llama.cpp"
    }

    fn version(&self) -> String {
        // SAFETY: the function takes nothing, and gives a string that ends with a zero and is never freed.
        unsafe { CStr::from_ptr((self.0.version)()) }.to_string_lossy().into()
    }

    fn dtype(&self) -> &'static str {
        "f32"
    }

    fn no_way(&self, _: &Case) -> Option<&'static str> {
        None
    }

    fn sampler<'a>(&'a self, case: &'a Case, rows: &'a Rows) -> Made<'a> {
        let api = &self.0;
        let candidates = vec![Candidate { id: 0, logit: 0.0, p: 0.0 }; VOCAB_SIZE];
        // SAFETY: parameters are passed as llama.h says; the chain takes what is added to it, and is freed when it is dropped.
        let chain = unsafe { (api.chain)((api.chain_params)()) };
        let made = InUse { api, chain, rows, candidates, left: (std::ptr::null(), 0) };
        made.build(case);
        Ok(Box::new(made))
    }
}

/// A chain of samplers, and the array that it works on.
struct InUse<'a> {
    api: &'a Api,
    chain: *mut Chain,
    rows: &'a Rows,
    candidates: Vec<Candidate>,
    /// What the last draw was among, until the chain is applied again; null before the first.
    left: (*const Candidate, usize),
}

impl InUse<'_> {
    /// Adds samplers in the order in which cuts mean what they mean elsewhere: after the temperature, but for those to which it
    /// makes no difference, which come before it, so that it has fewer tokens to divide.
    fn build(&self, case: &Case) {
        let (api, params) = (self.api, &case.params);
        let tokens = case.history.len() as i32;
        // SAFETY: every function is called as llama.h says; what it makes belongs to the chain from then on.
        unsafe {
            let add = |sampler| (api.add)(self.chain, sampler);
            if tokens > 0 {
                let (repeat, frequency) = (params.repetition_penalty, params.frequency_penalty);
                let vocab_size = VOCAB_SIZE as i32;
                let presence = params.presence_penalty;
                add((api.penalties)(vocab_size, tokens, repeat, frequency, presence));
            }
            if params.temperature == 0.0 {
                return add((api.greedy)());
            }
            if params.top_n_sigma > 0.0 {
                add((api.top_n_sigma)(params.top_n_sigma));
            }
            if params.top_k > 0 {
                add((api.top_k)(params.top_k as i32));
            }
            add((api.temperature)(params.temperature));
            if params.typical_p < 1.0 {
                add((api.typical_p)(params.typical_p, 1));
            }
            if params.top_p < 1.0 {
                add((api.top_p)(params.top_p, 1));
            }
            if params.min_p > 0.0 {
                add((api.min_p)(params.min_p, 1));
            }
            if params.xtc_probability > 0.0 {
                add((api.xtc)(params.xtc_probability, params.xtc_threshold, 1, SEED as u32));
            }
            add((api.dist)(SEED as u32));
            case.history.iter().for_each(|token| (api.accept)(self.chain, *token as i32));
        }
    }
}

impl Sampler for InUse<'_> {
    fn sample(&mut self, row: usize) -> Result<u32, Box<dyn Error>> {
        // As llama_sampler_sample does it.
        for ((candidate, &logit), id) in
            self.candidates.iter_mut().zip(self.rows.wide(row)).zip(0..)
        {
            *candidate = Candidate { id, logit, p: 0.0 };
        }
        let data = self.candidates.as_mut_ptr();
        let mut array = Candidates { data, size: VOCAB_SIZE, selected: -1, sorted: false };
        // SAFETY: the array has so many candidates; samplers reorder them, and may point to memory of their own.
        unsafe { (self.api.apply)(self.chain, &mut array) };
        // SAFETY: whatever the array points to now has `size` candidates until the chain is applied again.
        let left = unsafe { std::slice::from_raw_parts(array.data, array.size) };
        let selected = usize::try_from(array.selected).ok().and_then(|selected| left.get(selected));
        self.left = (array.data, array.size);
        Ok(selected.ok_or("llama.cpp has selected no token")?.id as u32)
    }

    fn kept(&self) -> Option<usize> {
        let (data, size) = self.left;
        if data.is_null() {
            return None;
        }
        // SAFETY: as above, and the chain has not been applied since.
        let left = unsafe { std::slice::from_raw_parts(data, size) };
        // Some samplers only make -inf of what they do not keep.
        Some(left.iter().filter(|candidate| candidate.logit > f32::NEG_INFINITY).count())
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        // SAFETY: the chain was made by this library, and nothing uses it any more.
        unsafe { (self.api.free)(self.chain) };
    }
}
