//! CUDA's run-time compiler: sources in memory in, code for a chip out. Needs no device.

use cudarc::nvrtc::result::NvrtcError;
use cudarc::nvrtc::sys::{self, nvrtcProgram, nvrtcResult};
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

/// The arithmetic needs these: nothing contracted, flushed or approximated.
const OPTIONS: [&CStr; 5] =
    [c"--std=c++17", c"-fmad=false", c"-ftz=false", c"-prec-div=true", c"-prec-sqrt=true"];

/// What is compiled.
pub struct Program {
    /// A `.cu` file.
    pub source: CString,
    /// What it includes, by name.
    pub headers: Vec<(CString, CString)>,
}

/// Compiles for a compute capability (90 for 9.0): machine code if this NVRTC knows the chip, else PTX for
/// the newest that it knows, which the driver compiles.
pub fn compile(program: &Program, chip: u32) -> Result<Vec<u8>, String> {
    // SAFETY: it only tries to load the library.
    if !unsafe { sys::is_culib_present() } {
        return Err("NVRTC (libnvrtc) is not here either".into());
    }
    let known = known_chips()?;
    let newest = known.into_iter().filter(|&known| known <= chip).max();
    let newest = newest.ok_or_else(|| format!("this NVRTC knows no chip as old as sm_{chip}"))?;
    let machine_code = newest == chip;
    let kind = if machine_code { "sm" } else { "compute" };
    let target = CString::new(format!("--gpu-architecture={kind}_{newest}")).expect("no zero byte");
    let compiled = Compiled::new(program, &target)?;
    compiled.image(machine_code)
}

fn check(what: &str, code: nvrtcResult) -> Result<(), String> {
    code.result().map_err(|NvrtcError(code)| format!("{what}: {code:?}"))
}

/// The chips that this NVRTC compiles for.
fn known_chips() -> Result<Vec<u32>, String> {
    let mut count: c_int = 0;
    // SAFETY: the library is present; it writes one integer.
    check("nvrtcGetNumSupportedArchs", unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) })?;
    let mut chips: Vec<c_int> = vec![0; count.max(0) as usize];
    // SAFETY: it writes as many integers as it has just said, and there is room for them.
    check("nvrtcGetSupportedArchs", unsafe { sys::nvrtcGetSupportedArchs(chips.as_mut_ptr()) })?;
    Ok(chips.into_iter().filter_map(|chip| u32::try_from(chip).ok()).collect())
}

/// A compiled program; destroyed when dropped.
struct Compiled(nvrtcProgram);

impl Compiled {
    fn new(program: &Program, target: &CStr) -> Result<Self, String> {
        let pointers = |part: fn(&(CString, CString)) -> &CString| -> Vec<*const c_char> {
            program.headers.iter().map(|header| part(header).as_ptr()).collect()
        };
        let (names, texts) = (pointers(|header| &header.0), pointers(|header| &header.1));
        let mut handle = ptr::null_mut();
        // SAFETY: all strings end in zero and outlive the program, whose lifetime ends in this module; both
        // lists have as many entries as is said.
        check("nvrtcCreateProgram", unsafe {
            sys::nvrtcCreateProgram(
                &mut handle,
                program.source.as_ptr(),
                c"sample.cu".as_ptr(),
                names.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        })?;
        let compiled = Self(handle);
        let options: Vec<_> =
            [target].iter().chain(&OPTIONS).map(|option| option.as_ptr()).collect();
        // SAFETY: the program is alive, and the options are as many as is said.
        let code = unsafe {
            sys::nvrtcCompileProgram(compiled.0, options.len() as c_int, options.as_ptr())
        };
        match check("NVRTC does not compile the kernels", code) {
            Ok(()) => Ok(compiled),
            Err(error) => Err(format!("{error}: {}", compiled.log())),
        }
    }

    /// What the compiler said, on one line.
    fn log(&self) -> String {
        let log = self.bytes(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog);
        let log = log.unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        text.trim_end_matches('\0').trim().replace('\n', " / ")
    }

    fn image(&self, machine_code: bool) -> Result<Vec<u8>, String> {
        match machine_code {
            true => self.bytes(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN),
            false => self.bytes(sys::nvrtcGetPTXSize, sys::nvrtcGetPTX),
        }
    }

    fn bytes(
        &self,
        size: unsafe fn(nvrtcProgram, *mut usize) -> nvrtcResult,
        read: unsafe fn(nvrtcProgram, *mut c_char) -> nvrtcResult,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program is alive; it writes one size.
        check("NVRTC has no result", unsafe { size(self.0, &mut bytes) })?;
        let mut result = vec![0u8; bytes];
        // SAFETY: the program is alive, and there is room for as much as it has just said.
        check("NVRTC has no result", unsafe { read(self.0, result.as_mut_ptr().cast()) })?;
        Ok(result)
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        // SAFETY: the program is alive, and nobody uses it after this.
        let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}
