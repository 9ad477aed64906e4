//! PTX text -> [`Module`]. Syntax only: what an opcode means is [`super::op`]'s business.

use super::lex::{Lexer, lex};
use super::op::{self, Op};
use std::collections::HashMap;

/// A register of a thread, by number.
pub type Reg = usize;

/// A parsed file.
#[derive(Debug, Default)]
pub struct Module {
    /// Kernels, in file order.
    pub entries: Vec<Entry>,
}

impl Module {
    /// The kernel with this name.
    pub fn entry(&self, name: &str) -> Result<&Entry, String> {
        self.entries.iter().find(|e| e.name == name).ok_or_else(|| {
            let names: Vec<_> = self.entries.iter().map(|e| &e.name).collect();
            format!("no kernel {name:?}; the module has {names:?}")
        })
    }
}

/// A kernel.
#[derive(Debug, Default)]
pub struct Entry {
    pub name: String,
    /// Bytes of the parameter block.
    pub param_bytes: usize,
    /// Bytes of `.shared` variables; dynamic shared memory starts here.
    pub static_shared_bytes: usize,
    /// Bytes of the initialised `.const` and `.global` variables that the kernel reads.
    pub constants: Vec<u8>,
    pub register_count: usize,
    pub body: Vec<Instruction>,
}

/// One instruction, resolved.
#[derive(Debug)]
pub struct Instruction {
    /// 1-based line in the file.
    pub line: usize,
    /// Runs only where this predicate register equals the flag.
    pub guard: Option<(Reg, bool)>,
    pub opcode: String,
    pub op: Op,
    pub operands: Vec<Operand>,
}

/// What an instruction works on.
#[derive(Clone, Debug)]
pub enum Operand {
    Reg(Reg),
    /// A register and a predicate written together: `%r1|%p1`. `_` is `None`.
    Pair(Option<Reg>, Option<Reg>),
    Immediate(u64),
    /// The name of a shared variable: its offset, to which the block adds where it lies.
    Shared(u64),
    Vector(Vec<Operand>),
    /// `[register + offset]` or `[offset]`.
    Address(Option<Reg>, i64),
    Special(Special),
    Target(usize),
}

/// Registers that the machine provides. Grids have one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Thread,
    Threads,
    Block,
    Blocks,
    RankInCluster,
    BlocksOfCluster,
    Lane,
}

/// Addresses of `.const` and initialised `.global` variables start here; see [`super::memory`].
pub const CONSTANT_BASE: u64 = 1 << 62;

/// Parses a whole file.
pub fn parse(text: &str) -> Result<Module, String> {
    let mut parser = Parser { lexer: lex(text), ..Default::default() };
    while !parser.lexer.done() {
        parser.top_level()?;
    }
    Ok(parser.module)
}

#[derive(Default)]
struct Parser {
    lexer: Lexer,
    module: Module,
    /// Module-wide variables: name -> address in its space.
    constants: HashMap<String, u64>,
    constant_bytes: Vec<u8>,
    /// `.extern .shared` arrays: they start where static shared memory ends.
    extern_shared: Vec<String>,
    module_shared: Vec<(String, usize, usize)>,
}

/// What names mean inside one kernel.
#[derive(Default)]
struct Scope {
    registers: Vec<HashMap<String, Reg>>,
    symbols: HashMap<String, u64>,
    shared: HashMap<String, u64>,
    labels: HashMap<String, usize>,
    /// Where a label was used before it was known: instruction, operand, name.
    pending: Vec<(usize, usize, String)>,
    /// Where dynamic shared memory is named, to be moved behind the static: instruction, operand.
    dynamic: Vec<(usize, usize)>,
}

impl Parser {
    fn top_level(&mut self) -> Result<(), String> {
        let word = self.lexer.word()?;
        match word.as_str() {
            ".version" | ".target" | ".address_size" | ".file" => {
                let line = self.lexer.line();
                while !self.lexer.done() && self.lexer.line() == line {
                    self.lexer.skip();
                }
                Ok(())
            }
            ".visible" | ".weak" => Ok(()),
            ".extern" => {
                let (name, ..) = self.variable_after(".extern")?;
                self.extern_shared.push(name);
                Ok(())
            }
            ".shared" => {
                let (name, size, align, _) = self.variable()?;
                self.module_shared.push((name, size, align));
                Ok(())
            }
            ".const" | ".global" => {
                let (name, size, align, data) = self.variable()?;
                let at = self.constant_bytes.len().next_multiple_of(align);
                self.constant_bytes.resize(at + size, 0);
                self.constant_bytes[at..at + data.len()].copy_from_slice(&data);
                self.constants.insert(name, CONSTANT_BASE + at as u64);
                Ok(())
            }
            ".entry" => self.entry(),
            other => Err(self.lexer.error(&format!("unknown directive {other:?}"))),
        }
    }

    fn variable_after(&mut self, what: &str) -> Result<(String, usize, usize, Vec<u8>), String> {
        let space = self.lexer.word()?;
        if space != ".shared" {
            return Err(self.lexer.error(&format!("{what} {space} is not supported")));
        }
        self.variable()
    }

    /// `.align 8 .b8 name[32] = {1, 2};` after the space -> name, bytes, alignment, initial bytes.
    fn variable(&mut self) -> Result<(String, usize, usize, Vec<u8>), String> {
        let mut align = None;
        let mut word = self.lexer.word()?;
        if word == ".align" {
            align = Some(self.lexer.number()? as usize);
            word = self.lexer.word()?;
        }
        let element = type_bytes(&word).ok_or_else(|| self.lexer.error(&format!("type {word}")))?;
        let name = self.lexer.word()?;
        let mut count = 1;
        if self.lexer.take('[') {
            count = if self.lexer.take(']') { 0 } else { self.lexer.number()? as usize };
            self.lexer.take(']');
        }
        let mut data = Vec::new();
        if self.lexer.take('=') {
            let list = self.lexer.take('{');
            loop {
                let value = self.lexer.number()?;
                data.extend_from_slice(&value.to_le_bytes()[..element]);
                if !self.lexer.take(',') {
                    break;
                }
            }
            if list {
                self.lexer.expect('}')?;
            }
        }
        self.lexer.expect(';')?;
        Ok((name, element * count, align.unwrap_or(element), data))
    }

    fn entry(&mut self) -> Result<(), String> {
        let mut entry = Entry { name: self.lexer.word()?, ..Default::default() };
        let mut scope = Scope { registers: vec![HashMap::new()], ..Default::default() };
        scope.symbols.extend(self.constants.clone());
        if self.lexer.take('(') {
            while !self.lexer.take(')') {
                self.parameter(&mut entry, &mut scope)?;
                self.lexer.take(',');
            }
        }
        // Launch bounds and cluster shapes: the host states the geometry, the machine obeys it.
        while !self.lexer.take('{') {
            self.lexer.skip();
        }
        for (name, size, align) in self.module_shared.clone() {
            place_shared(&mut entry, &mut scope, name, size, align);
        }
        let mut depth = 1;
        while depth > 0 {
            if self.lexer.take('{') {
                depth += 1;
                scope.registers.push(HashMap::new());
            } else if self.lexer.take('}') {
                depth -= 1;
                scope.registers.pop();
            } else {
                self.statement(&mut entry, &mut scope)?;
            }
        }
        for (instruction, operand, label) in scope.pending {
            let target = *scope.labels.get(&label).ok_or(format!("no label {label:?}"))?;
            entry.body[instruction].operands[operand] = Operand::Target(target);
        }
        let dynamic = entry.static_shared_bytes.next_multiple_of(128) as u64;
        entry.static_shared_bytes = dynamic as usize;
        for (instruction, operand) in scope.dynamic {
            match &mut entry.body[instruction].operands[operand] {
                Operand::Shared(value) => *value += dynamic,
                Operand::Address(_, offset) => *offset += dynamic as i64,
                other => return Err(format!("dynamic shared memory as {other:?}")),
            }
        }
        entry.constants = self.constant_bytes.clone();
        self.module.entries.push(entry);
        Ok(())
    }

    fn parameter(&mut self, entry: &mut Entry, scope: &mut Scope) -> Result<(), String> {
        let mut align = None;
        let mut element = 0;
        loop {
            let word = self.lexer.word()?;
            match word.as_str() {
                ".param" | ".ptr" | ".global" => {}
                ".align" => align = Some(self.lexer.number()? as usize),
                word if word.starts_with('.') => {
                    element = type_bytes(word)
                        .ok_or_else(|| self.lexer.error(&format!("parameter type {word}")))?;
                }
                name => {
                    let mut size = element;
                    if self.lexer.take('[') {
                        size *= self.lexer.number()? as usize;
                        self.lexer.expect(']')?;
                    }
                    let at = entry.param_bytes.next_multiple_of(align.unwrap_or(element));
                    entry.param_bytes = at + size;
                    scope.symbols.insert(name.to_owned(), at as u64);
                    return Ok(());
                }
            }
        }
    }

    fn statement(&mut self, entry: &mut Entry, scope: &mut Scope) -> Result<(), String> {
        let line = self.lexer.line();
        let guard = if self.lexer.take('@') {
            let wanted = !self.lexer.take('!');
            let name = self.lexer.word()?;
            Some((scope.register(&name).ok_or(format!("line {line}: guard {name}"))?, wanted))
        } else {
            None
        };
        let word = self.lexer.word()?;
        match word.as_str() {
            ".reg" => return self.registers(entry, scope),
            ".shared" => {
                let (name, size, align, _) = self.variable()?;
                place_shared(entry, scope, name, size, align);
                return Ok(());
            }
            ".pragma" | ".loc" => {
                while !self.lexer.take(';') && self.lexer.line() == line {
                    self.lexer.skip();
                }
                return Ok(());
            }
            _ => {}
        }
        if self.lexer.take(':') {
            scope.labels.insert(word, entry.body.len());
            return Ok(());
        }
        let op = op::decode(&word).map_err(|e| format!("line {line}: {e}"))?;
        let index = entry.body.len();
        let mut operands = Vec::new();
        while !self.lexer.take(';') {
            let operand = self.operand(scope, index, operands.len())?;
            operands.push(operand);
            self.lexer.take(',');
        }
        entry.body.push(Instruction { line, guard, opcode: word, op, operands });
        Ok(())
    }

    fn registers(&mut self, entry: &mut Entry, scope: &mut Scope) -> Result<(), String> {
        let _type = self.lexer.word()?;
        let names = scope.registers.last_mut().expect("a scope is open");
        loop {
            let name = self.lexer.word()?;
            if self.lexer.take('<') {
                for i in 0..self.lexer.number()? {
                    names.insert(format!("{name}{i}"), entry.register_count);
                    entry.register_count += 1;
                }
                self.lexer.expect('>')?;
            } else {
                names.insert(name, entry.register_count);
                entry.register_count += 1;
            }
            if !self.lexer.take(',') {
                return self.lexer.expect(';');
            }
        }
    }

    fn operand(
        &mut self,
        scope: &mut Scope,
        instruction: usize,
        place: usize,
    ) -> Result<Operand, String> {
        if self.lexer.take('{') {
            let mut items = Vec::new();
            while !self.lexer.take('}') {
                items.push(self.operand(scope, instruction, usize::MAX)?);
                self.lexer.take(',');
            }
            return Ok(Operand::Vector(items));
        }
        if self.lexer.take('[') {
            return self.address(scope, instruction, place);
        }
        if let Some(value) = self.lexer.signed() {
            return Ok(Operand::Immediate(value as u64));
        }
        let name = self.lexer.word()?;
        let first = scope.register(&name);
        if self.lexer.take('|') {
            let second = self.lexer.word()?;
            return Ok(Operand::Pair(first, scope.register(&second)));
        }
        if let Some(reg) = first {
            return Ok(Operand::Reg(reg));
        }
        if name == "_" {
            return Ok(Operand::Pair(None, None));
        }
        if let Some(special) = special(&name) {
            return Ok(Operand::Special(special));
        }
        if let Some(&value) = scope.symbols.get(&name) {
            return Ok(Operand::Immediate(value));
        }
        if let Some(&offset) = scope.shared.get(&name) {
            return Ok(Operand::Shared(offset));
        }
        if self.extern_shared.contains(&name) {
            scope.dynamic.push((instruction, place));
            return Ok(Operand::Shared(0));
        }
        scope.pending.push((instruction, place, name));
        Ok(Operand::Target(usize::MAX))
    }

    fn address(
        &mut self,
        scope: &mut Scope,
        instruction: usize,
        place: usize,
    ) -> Result<Operand, String> {
        let mut base = None;
        let mut offset = 0;
        if let Some(value) = self.lexer.signed() {
            offset = value;
        } else {
            let name = self.lexer.word()?;
            if let Some(reg) = scope.register(&name) {
                base = Some(reg);
            } else if let Some(&value) = scope.symbols.get(&name) {
                offset = value as i64;
            } else if let Some(&at) = scope.shared.get(&name) {
                offset = at as i64;
            } else if self.extern_shared.contains(&name) {
                scope.dynamic.push((instruction, place));
            } else {
                return Err(self.lexer.error(&format!("unknown address {name:?}")));
            }
        }
        if self.lexer.take('+') {
            offset += self.lexer.signed().ok_or_else(|| self.lexer.error("offset"))?;
        }
        self.lexer.expect(']')?;
        Ok(Operand::Address(base, offset))
    }
}

impl Scope {
    fn register(&self, name: &str) -> Option<Reg> {
        self.registers.iter().rev().find_map(|names| names.get(name).copied())
    }
}

fn place_shared(entry: &mut Entry, scope: &mut Scope, name: String, size: usize, align: usize) {
    let at = entry.static_shared_bytes.next_multiple_of(align);
    entry.static_shared_bytes = at + size;
    scope.shared.insert(name, at as u64);
}

fn type_bytes(word: &str) -> Option<usize> {
    Some(match word {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}

fn special(name: &str) -> Option<Special> {
    Some(match name {
        "%tid.x" => Special::Thread,
        "%ntid.x" => Special::Threads,
        "%ctaid.x" => Special::Block,
        "%nctaid.x" => Special::Blocks,
        "%cluster_ctarank" => Special::RankInCluster,
        "%cluster_nctarank" => Special::BlocksOfCluster,
        "%laneid" => Special::Lane,
        _ => return None,
    })
}
