package audit

import (
	"strconv"
	"time"
)

// An Object appends one JSON object, field by field: what the kernels write their events with. Names are literals of the
// kernels' own and are written as they are. The Opt methods leave a zero value out.
type Object struct{ b []byte }

// Event begins an event of the given type at the end of dst.
func Event(dst []byte, kind string) Object {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, kind...)
	return Object{append(dst, '"')}
}

// Begin begins an object within an event, at the end of dst.
func Begin(dst []byte) Object { return Object{append(dst, '{')} }

// End closes the object and returns the bytes.
func (o Object) End() []byte { return append(o.b, '}') }

func (o Object) name(name string) []byte {
	b := o.b
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(append(b, '"'), name...)
	return append(b, '"', ':')
}

// Str adds a string.
func (o Object) Str(name, v string) Object { return Object{AppendString(o.name(name), v)} }

// OptStr adds a string unless it is empty.
func (o Object) OptStr(name, v string) Object {
	if v == "" {
		return o
	}
	return o.Str(name, v)
}

// Strs adds a list of strings.
func (o Object) Strs(name string, v []string) Object {
	b := append(o.name(name), '[')
	for i, s := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendString(b, s)
	}
	return Object{append(b, ']')}
}

// OptStrs adds a list of strings unless it is empty.
func (o Object) OptStrs(name string, v []string) Object {
	if len(v) == 0 {
		return o
	}
	return o.Strs(name, v)
}

// List adds a list of n values, each of which element appends.
func (o Object) List(name string, n int, element func(dst []byte, i int) []byte) Object {
	b := append(o.name(name), '[')
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, i)
	}
	return Object{append(b, ']')}
}

// Uint adds a number.
func (o Object) Uint(name string, v uint64) Object {
	return Object{strconv.AppendUint(o.name(name), v, 10)}
}

// OptUint adds a number unless it is zero.
func (o Object) OptUint(name string, v uint64) Object {
	if v == 0 {
		return o
	}
	return o.Uint(name, v)
}

// OptBool adds true, or nothing.
func (o Object) OptBool(name string, v bool) Object {
	if !v {
		return o
	}
	return Object{append(o.name(name), "true"...)}
}

// Hash adds a hash as hex.
func (o Object) Hash(name string, v Hash) Object { return Object{AppendHash(o.name(name), v)} }

// OptHash adds a hash unless it is zero.
func (o Object) OptHash(name string, v Hash) Object {
	if v == (Hash{}) {
		return o
	}
	return o.Hash(name, v)
}

// Time adds a time.
func (o Object) Time(name string, v time.Time) Object { return Object{AppendTime(o.name(name), v)} }

// OptTime adds a time unless it is zero.
func (o Object) OptTime(name string, v time.Time) Object {
	if v.IsZero() {
		return o
	}
	return o.Time(name, v)
}

// Within adds a value that value appends, such as an object of its own.
func (o Object) Within(name string, value func(dst []byte) []byte) Object {
	return Object{value(o.name(name))}
}

// Raw adds a value that is JSON already.
func (o Object) Raw(name string, v []byte) Object { return Object{append(o.name(name), v...)} }

// Millionths adds a figure in whole millionths as a decimal number without trailing zeros.
func (o Object) Millionths(name string, m uint32) Object {
	const one = 1_000_000
	b := append(o.name(name), byte('0'+m/one))
	frac := m % one
	if frac == 0 {
		return Object{b}
	}
	b = append(b, '.')
	for unit := uint32(one / 10); frac > 0 && unit > 0; unit /= 10 {
		b = append(b, byte('0'+frac/unit))
		frac %= unit
	}
	return Object{b}
}

// OptMillionths adds a figure in whole millionths unless it is zero.
func (o Object) OptMillionths(name string, m uint32) Object {
	if m == 0 {
		return o
	}
	return o.Millionths(name, m)
}
