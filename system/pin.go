package system

import (
	"maps"
	"slices"
)

// decidePin pins what is not pinned yet, in the order of the names.
func decidePin(s *State, c Pin) []Event {
	var events []Event
	for _, tool := range slices.Sorted(maps.Keys(c.Tools)) {
		if _, there := s.Pins[tool]; !there && len(s.Pins)+len(events) < MaxPins {
			events = append(events, Pinned{tool, c.Tools[tool]})
		}
	}
	return events
}
