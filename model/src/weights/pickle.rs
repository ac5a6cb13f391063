//! Just enough of Python's pickle to find tensors in a PyTorch checkpoint, without executing anything.
//!
//! A pickle is a program for a small stack machine. This one builds plain data and nothing else: a class is a name, a
//! call is a [`Value::Call`] of that name, and nobody ever looks it up. Values live in an arena and refer to each other by
//! index, so that neither nesting nor sharing, however extreme, costs more than the bytes that ask for it.

use std::collections::HashMap;

/// Index of a value in [`Objects`].
pub(super) type Id = usize;

/// What a pickle describes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// `None`, a float, bytes: what is never looked at.
    Opaque,
    Bool(bool),
    Int(i64),
    Text(String),
    /// A class or function: `module.name`.
    Global(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A call that is not made.
    Call {
        function: Id,
        arguments: Id,
    },
    /// Reference to something outside the pickle: a storage.
    Outside(Id),
}

/// All values of a pickle.
#[derive(Debug)]
pub(super) struct Objects {
    values: Vec<Value>,
    root: Id,
}

impl Objects {
    /// Runs a pickle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            rest: bytes,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok(Self {
            values: machine.values,
            root,
        })
    }

    /// The pickled object.
    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(items) => Some(items),
            _ => None,
        }
    }

    /// Name and arguments of a call.
    pub(super) fn call(&self, id: Id) -> Option<(&str, &[Id])> {
        match self.get(id) {
            Value::Call { function, arguments } => Some((self.global(*function)?, self.tuple(*arguments)?)),
            _ => None,
        }
    }

    pub(super) fn global(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Global(name) => Some(name),
            _ => None,
        }
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// One instruction; false for the last.
    fn step(&mut self) -> Result<bool, String> {
        let code = self.byte()?;
        match code {
            b'.' => return Ok(false),
            0x80 => self.pass(1)?,
            0x95 => self.pass(8)?,
            b'(' => self.marks.push(self.stack.len()),
            b'c' => self.global()?,
            0x93 => self.stack_global()?,
            b'N' => self.push(Value::Opaque),
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88)),
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => self.int(4)?,
            0x8a => self.long()?,
            b'G' => self.skip(8)?,
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            b'U' | b'C' => self.bytes(1)?,
            b'T' | b'B' => self.bytes(4)?,
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x85..=0x87 => self.short_tuple(usize::from(code - 0x84))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            b'a' | b'e' | b's' | b'u' => self.fill(code)?,
            b'R' | 0x81 => self.call()?,
            // A value is dropped; so is the state given to an object after it was made: metadata, never tensors.
            b'0' | b'b' => self.discard()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Outside(id));
            }
            b'q' | b'r' | 0x94 => self.remember(code)?,
            b'h' | b'j' => self.recall(code)?,
            other => {
                return Err(format!(
                    "it uses the pickle instruction {other:#04x}, which no checkpoint needs"
                ));
            }
        }
        Ok(true)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let Some((taken, rest)) = self.rest.split_at_checked(n) else {
            return Err("its pickle ends in the middle of an instruction".into());
        };
        self.rest = rest;
        Ok(taken)
    }

    fn pass(&mut self, n: usize) -> Result<(), String> {
        self.take(n).map(|_| ())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of 1, 2 or 4 bytes.
    fn number(&mut self, bytes: usize) -> Result<u32, String> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte)))
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("its pickle takes from an empty stack".into());
        }
        self.stack
            .pop()
            .ok_or_else(|| "its pickle takes from an empty stack".into())
    }

    fn discard(&mut self) -> Result<(), String> {
        self.pop().map(|_| ())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self
            .marks
            .pop()
            .ok_or("its pickle looks for a mark that it never set")?;
        Ok(self.stack.split_off(mark))
    }

    fn int(&mut self, bytes: usize) -> Result<(), String> {
        let number = self.number(bytes)?;
        // Four bytes are signed, fewer are not.
        let int = if bytes == 4 {
            i64::from(number as i32)
        } else {
            i64::from(number)
        };
        self.push(Value::Int(int));
        Ok(())
    }

    fn long(&mut self) -> Result<(), String> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        let value = if length > 8 {
            Value::Opaque
        } else {
            let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            let mut whole = [if negative { 0xff } else { 0 }; 8];
            whole[..length].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(whole))
        };
        self.push(value);
        Ok(())
    }

    fn skip(&mut self, bytes: usize) -> Result<(), String> {
        self.take(bytes)?;
        self.push(Value::Opaque);
        Ok(())
    }

    fn text(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = self.number(length_bytes)? as usize;
        let text =
            String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "its pickle holds a text that is not UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// Bytes, or a text of Python 2, which may be a tensor's name.
    fn bytes(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = self.number(length_bytes)? as usize;
        let value = match std::str::from_utf8(self.take(length)?) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Opaque,
        };
        self.push(value);
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("its pickle ends in the middle of a name")?;
        let line = String::from_utf8_lossy(self.take(end + 1)?).trim_end().to_owned();
        Ok(line)
    }

    fn global(&mut self) -> Result<(), String> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Global(format!("{module}.{name}")));
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), String> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Value::Text(module), Value::Text(name)) = (&self.values[module], &self.values[name]) else {
            return Err("its pickle names a class by something else than texts".into());
        };
        let global = format!("{module}.{name}");
        self.push(Value::Global(global));
        Ok(())
    }

    fn short_tuple(&mut self, items: usize) -> Result<(), String> {
        let mut tuple = Vec::with_capacity(items);
        for _ in 0..items {
            tuple.push(self.pop()?);
        }
        tuple.reverse();
        self.push(Value::Tuple(tuple));
        Ok(())
    }

    /// Appends to the list, or sets in the dictionary, on top of the stack.
    fn fill(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let target = *self
            .stack
            .last()
            .ok_or("its pickle fills a container that is not there")?;
        match (&mut self.values[target], code) {
            (Value::List(list), b'a' | b'e') => list.extend(items),
            (Value::Dict(dict), b's' | b'u') if items.len() % 2 == 0 => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            // Items of an object of some class, such as a set or a counter: nothing to find there.
            (Value::Call { .. }, _) => {}
            _ => return Err("its pickle fills something that is no container".into()),
        }
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let dictionary = matches!(&self.values[function],
            Value::Global(name) if name == "collections.OrderedDict" || name == "collections.defaultdict");
        self.push(if dictionary {
            Value::Dict(Vec::new())
        } else {
            Value::Call { function, arguments }
        });
        Ok(())
    }

    fn remember(&mut self, code: u8) -> Result<(), String> {
        let slot = match code {
            b'q' => self.number(1)?,
            b'r' => self.number(4)?,
            _ => self.memo.len() as u32,
        };
        let top = *self
            .stack
            .last()
            .ok_or("its pickle remembers something that is not there")?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Result<(), String> {
        let slot = self.number(if code == b'h' { 1 } else { 4 })?;
        let id = self
            .memo
            .get(&slot)
            .ok_or("its pickle recalls something it never remembered")?;
        self.stack.push(*id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
