package drift

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/agenthypervisor/hypervisor/ring"
)

// A Level says how bad a distance is (SPEC §9). The zero value is None.
type Level uint8

// The levels.
const (
	None Level = iota
	Low
	Medium
	High
	Critical
)

var levels = [...]string{"none", "low", "medium", "high", "critical"}

// from holds the least distance of each level.
var from = [...]ring.Sigma{Low: 150_000, Medium: 300_000, High: 500_000, Critical: 750_000}

// String returns the level's word.
func (l Level) String() string { return levels[l] }

// MarshalText returns the level's word.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a level's word, and nothing else.
func (l *Level) UnmarshalText(b []byte) error {
	for i, word := range levels {
		if word == string(b) {
			*l = Level(i)
			return nil
		}
	}
	return fmt.Errorf("drift level %q is not one of %s", b, strings.Join(levels[:], ", "))
}

// LevelOf returns the level of a distance.
func LevelOf(distance ring.Sigma) Level {
	level := None
	for l := Low; l <= Critical; l++ {
		if distance >= from[l] {
			level = l
		}
	}
	return level
}

// The metrics.
const (
	Cosine    = "cosine"    // 1 − the cosine of the angle; 0 for the same direction
	Euclidean = "euclidean" // the length of the difference
)

const (
	// MaxComponents bounds an embedding.
	MaxComponents = 4096

	maxDigits    = 40   // of a component as it is written
	maxExponent  = 99   // of a component as it is written
	maxComponent = 1000 // either way
	unit         = 1_000_000_000
	millionth    = 1_000_000
)

// ErrVector is returned, wrapped with what is wrong, for what is no embedding, and for two that cannot be compared.
var ErrVector = errors.New("embedding cannot be compared")

// A Vector is an embedding, in whole billionths.
type Vector []int64

// ParseVector reads JSON numbers from -1000 to 1000; what is finer than a billionth is cut off.
func ParseVector[T ~string](numbers []T) (Vector, error) {
	if len(numbers) == 0 || len(numbers) > MaxComponents {
		return nil, fmt.Errorf("%w: it has %d components, and 1 to %d are taken", ErrVector, len(numbers), MaxComponents)
	}
	v := make(Vector, len(numbers))
	for i, n := range numbers {
		x, ok := billionths(string(n))
		if !ok {
			return nil, fmt.Errorf("%w: component %d: want a number from -%d to %d in at most %d characters", ErrVector, i, maxComponent, maxComponent, maxDigits)
		}
		v[i] = x
	}
	return v, nil
}

// billionths reads a JSON number exactly.
func billionths(text string) (int64, bool) {
	if len(text) > maxDigits || strings.Trim(text, "+-.0123456789eE") != "" || strings.ContainsAny(text, "/_xX") {
		return 0, false
	}
	if i := strings.IndexAny(text, "eE"); i >= 0 { // bounded before anything is raised to it
		if exp, err := strconv.Atoi(text[i+1:]); err != nil || exp > maxExponent || exp < -maxExponent {
			return 0, false
		}
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, false
	}
	r.Mul(r, big.NewRat(unit, 1))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	return n.Int64(), n.IsInt64() && n.CmpAbs(big.NewInt(maxComponent*unit)) <= 0
}

// Measure returns the distance of what was observed from what was claimed, in millionths rounded down, and 1 for more than that.
// It returns ErrVector for embeddings of different lengths, for a metric it does not know, and for the angle of one that is zero.
func Measure(metric string, claimed, observed Vector) (ring.Sigma, error) {
	if len(claimed) != len(observed) || len(claimed) == 0 {
		return 0, fmt.Errorf("%w: %d components are claimed and %d observed", ErrVector, len(claimed), len(observed))
	}
	switch metric {
	case Cosine:
		return cosine(claimed, observed)
	case Euclidean:
		return euclidean(claimed, observed), nil
	}
	return 0, fmt.Errorf("%w: metric %q is not cosine or euclidean", ErrVector, metric)
}

// cosine is 1 − a·b / √(a·a × b·b), from whole numbers: the root is of a fraction, and rounded so that the distance is rounded down.
func cosine(a, b Vector) (ring.Sigma, error) {
	dot, square := product(a, b), new(big.Int).Mul(product(a, a), product(b, b))
	if square.Sign() == 0 {
		return 0, fmt.Errorf("%w: one that is all zero has no direction", ErrVector)
	}
	if dot.Sign() <= 0 { // a right angle or more
		return ring.One, nil
	}
	scaled := new(big.Int).Mul(dot, big.NewInt(millionth))
	scaled.Mul(scaled, scaled)
	root := new(big.Int).Sqrt(new(big.Int).Quo(scaled, square))
	if check := new(big.Int).Mul(root, root); check.Mul(check, square).Cmp(scaled) < 0 {
		root.Add(root, big.NewInt(1)) // up, where it is not whole: what is left of 1 is rounded down
	}
	return ring.One - ring.Sigma(min(root.Uint64(), millionth)), nil
}

func euclidean(a, b Vector) ring.Sigma {
	difference := make(Vector, len(a))
	for i := range a {
		difference[i] = a[i] - b[i]
	}
	length := new(big.Int).Sqrt(product(difference, difference))
	length.Quo(length, big.NewInt(unit/millionth))
	if !length.IsUint64() || length.Uint64() > millionth {
		return ring.One
	}
	return ring.Sigma(length.Uint64())
}

func product(a, b Vector) *big.Int {
	sum, one, x, y := new(big.Int), new(big.Int), new(big.Int), new(big.Int)
	for i := range a {
		sum.Add(sum, one.Mul(x.SetInt64(a[i]), y.SetInt64(b[i])))
	}
	return sum
}
