package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// A plan decides one history. Each turn has dice of its own, so what is left out of a plan shifts nothing in the turns that stay: a
// plan that fails can be made smaller, and still means the same.
type plan struct {
	seed  uint64
	turns int
	only  map[int]bool   // the turns that are taken; nil: all
	calm  map[int]bool   // those in which nothing fails; nil: none
	mute  map[fault]bool // faults that never happen; nil: none
}

// Dice are what one turn draws from: what is done, what fails, and what comes first.
type dice struct{ deeds, faults, order *rand.Rand }

const (
	wholeSeed = 1 << 20 // the turn of what is drawn for the seed as a whole
	aftermath = wholeSeed + 1
)

func (p *plan) dice(turn int) dice {
	of := func(kind uint64) *rand.Rand {
		return rand.New(rand.NewPCG(p.seed*0x9e3779b97f4a7c15+kind, uint64(turn)*0xbf58476d1ce4e5b9+kind))
	}
	return dice{of(1), of(2), of(3)}
}

func (p *plan) takes(turn int) bool { return p.only == nil || p.only[turn] }

// command is what replays the plan.
func (p *plan) command() string {
	b := fmt.Sprintf("go test ./internal/sim -run TestSimulated -seed %d", p.seed)
	if p.turns != defaultTurns {
		b += fmt.Sprintf(" -turns %d", p.turns)
	}
	if p.only != nil {
		b += " -only " + ranges(p.only)
	}
	if len(p.calm) > 0 {
		b += " -calm " + ranges(p.calm)
	}
	if len(p.mute) > 0 {
		var names []string
		for f := range p.mute {
			names = append(names, string(f))
		}
		slices.Sort(names)
		b += " -without " + strings.Join(names, ",")
	}
	return b
}

// ranges writes a set as 3,5-9; nothing at all is -.
func ranges(set map[int]bool) string {
	var words []string
	all := slices.Sorted(maps.Keys(set))
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1] == all[j]+1 {
			j++
		}
		if i == j {
			words = append(words, strconv.Itoa(all[i]))
		} else {
			words = append(words, fmt.Sprintf("%d-%d", all[i], all[j]))
		}
		i = j + 1
	}
	if words == nil {
		return "-"
	}
	return strings.Join(words, ",")
}

// parseRanges reads what ranges writes; an empty text is nil.
func parseRanges(text string) (map[int]bool, error) {
	if text == "" {
		return nil, nil
	}
	set := map[int]bool{}
	if text == "-" {
		return set, nil
	}
	for word := range strings.SplitSeq(text, ",") {
		from, to, both := strings.Cut(word, "-")
		if !both {
			to = from
		}
		a, err := strconv.Atoi(from)
		if err != nil {
			return nil, err
		}
		b, err := strconv.Atoi(to)
		if err != nil {
			return nil, err
		}
		for ; a <= b; a++ {
			set[a] = true
		}
	}
	return set, nil
}
