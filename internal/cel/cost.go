package cel

import (
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// A meter prices the calls inside an expression by what they go over. cel-go prices by overload, which is open where an
// argument's type is, as everything in args; and then it asks one unit for joining megabytes.
type meter struct{}

// bytesPerUnit is how many bytes of text cost what one element does; it is cel-go's own figure.
const bytesPerUnit = 10

// CallCost returns the price of a call that has just been made.
func (meter) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	price := uint64(1)
	switch {
	case function == operators.Index || function == overloads.Size:
	case function == operators.Equals || function == operators.NotEquals:
		price += weigh(args[0], maxCost)
	case function == operators.In:
		price += weigh(args[0], maxCost) + weigh(args[1], maxCost)
	case function == overloads.Matches && len(args) == 2:
		price += (1 + text(args[0])) * (1 + text(args[1])*bytesPerUnit/4)
	default:
		for _, arg := range args {
			price += text(arg)
		}
		price += text(result)
	}
	return &price
}

// text weighs a string; anything else is passed on, not gone over.
func text(v ref.Val) uint64 {
	switch v := v.(type) {
	case types.String:
		return uint64(len(v)) / bytesPerUnit
	case types.Bytes:
		return uint64(len(v)) / bytesPerUnit
	}
	return 0
}

// weigh counts what a comparison goes over: everything in the value, but no further than most.
func weigh(v ref.Val, most uint64) uint64 {
	weight := 1 + text(v)
	object, isMap := v.(traits.Mapper)
	list, isList := v.(traits.Lister)
	switch {
	case isMap:
		for it := object.Iterator(); weight < most && it.HasNext() == types.True; {
			key := it.Next()
			weight += 1 + text(key) + weigh(object.Get(key), most-weight)
		}
	case isList:
		for it := list.Iterator(); weight < most && it.HasNext() == types.True; {
			weight += weigh(it.Next(), most-weight)
		}
	}
	return weight
}
