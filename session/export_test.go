package session

import (
	"maps"
	"slices"
)

// EventTypes are the published names of all events.
func EventTypes() []string { return slices.Sorted(maps.Keys(readers)) }

// The bounds that tests reach for.
const (
	MaxKeys          = maxKeys
	MaxOpenApprovals = maxConcurrentApprovals
	MaxKeptApprovals = maxKeptApprovals
)
