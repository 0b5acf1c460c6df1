package ring

import (
	"errors"
	"fmt"
)

// A Sigma is a trust score in [0, 1], in whole millionths. The zero Sigma is no trust.
// It is an integer so that a threshold is the same on every machine: 0.4 + 0.2 is not above 0.6 (SPEC §0).
type Sigma uint32

const (
	// One is complete trust, and the scale of every figure in millionths.
	One Sigma = 1_000_000
	// Newcomer is the standing of an agent nobody has spoken of (SPEC §3).
	Newcomer Sigma = 500_000
)

// ErrScore is returned when a text is not a decimal in [0, 1] with at most six places.
var ErrScore = errors.New("not a decimal from 0 to 1 with at most six places")

// ParseSigma reads a decimal such as "0.85". It returns ErrScore for anything outside [0, 1] or finer than a millionth.
func ParseSigma(text string) (Sigma, error) {
	m, err := ParseMillionths(text)
	return Sigma(m), err
}

// MustSigma is ParseSigma for constants; it panics where ParseSigma returns an error.
func MustSigma(text string) Sigma {
	s, err := ParseSigma(text)
	if err != nil {
		panic(fmt.Sprintf("ring: σ %q: %v", text, err))
	}
	return s
}

// String returns the score as a decimal without trailing zeros, at least two places: "0.80", "0.612".
func (s Sigma) String() string { return string(AppendMillionths(nil, uint32(s))) }

// MarshalJSON returns the score as a JSON number.
func (s Sigma) MarshalJSON() ([]byte, error) { return AppendMillionths(nil, uint32(s)), nil }

// UnmarshalJSON reads a JSON number or a string holding one. No float is involved.
func (s *Sigma) UnmarshalJSON(b []byte) error {
	if len(b) >= 2 && b[0] == '"' {
		b = b[1 : len(b)-1]
	}
	v, err := ParseSigma(string(b))
	if err != nil {
		return fmt.Errorf("σ %s: %w", b, err)
	}
	*s = v
	return nil
}

// AppendMillionths appends m millionths as a decimal, as Sigma.String shows it.
func AppendMillionths(dst []byte, m uint32) []byte {
	dst = append(dst, byte('0'+m/uint32(One)), '.')
	frac := m % uint32(One)
	places := 6
	for places > 2 && frac%10 == 0 {
		frac /= 10
		places--
	}
	var digits [6]byte
	for i := places - 1; i >= 0; i-- {
		digits[i] = byte('0' + frac%10)
		frac /= 10
	}
	return append(dst, digits[:places]...)
}

// ParseMillionths reads a decimal in [0, 1] with at most six places into whole millionths. It returns ErrScore otherwise.
func ParseMillionths(text string) (uint32, error) {
	if text == "" || len(text) > len("0.000000") {
		return 0, ErrScore
	}
	whole := text[0]
	if whole != '0' && whole != '1' {
		return 0, ErrScore
	}
	m := uint32(whole-'0') * uint32(One)
	if len(text) == 1 {
		return m, nil
	}
	if text[1] != '.' || len(text) == 2 {
		return 0, ErrScore
	}
	place := uint32(One) / 10
	for _, c := range []byte(text[2:]) {
		if c < '0' || c > '9' {
			return 0, ErrScore
		}
		m += uint32(c-'0') * place
		place /= 10
	}
	if m > uint32(One) {
		return 0, ErrScore
	}
	return m, nil
}
