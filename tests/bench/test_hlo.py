"""Kernels, operations and bytes of a program for a GPU, read from a text as by hand."""

from gankd_jax.bench.gpu.hlo import Kernel, Module

# A loop of 10 turns over a product, three convolutions as cuDNN's own, and three that are not;
# with words of `ATTRIBUTES` in the place of attributes.
TEXT = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %b = f32[] add(%a, %a)
}

%zeros_between (p: f32[2,4,4,8]) -> f32[2,7,7,8] {
  %p = f32[2,4,4,8]{3,2,1,0} parameter(0)
  %zero = f32[] constant(0)
  ROOT %pad.1 = f32[2,7,7,8]{3,2,1,0} pad(%p, %zero), padding=0_0_0x0_0_1x0_0_1x0_0_0
}

%slice_row (rows: f32[10,6], k: s32[]) -> f32[1,6] {
  %rows = f32[10,6]{1,0} parameter(0)
  %k = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  ROOT %row = f32[1,6]{1,0} dynamic-slice(%rows, %k, %zero.1), dynamic_slice_sizes={1,6}
}

%write_row (out: f32[10,6], r: f32[1,6], k.1: s32[]) -> f32[10,6] {
  %out = f32[10,6]{1,0} parameter(0)
  %r = f32[1,6]{1,0} parameter(1)
  %k.1 = s32[] parameter(2)
  %zero.2 = s32[] constant(0)
  ROOT %updated = f32[10,6]{1,0} dynamic-update-slice(%out, %r, %k.1, %zero.2)
}

%product (x: f32[3,5], y: f32[5,7]) -> f32[3,7] {
  %x = f32[3,5]{1,0} parameter(0)
  %y = f32[5,7]{1,0} parameter(1)
  ROOT %dot.1 = f32[3,7]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[3,5], f32[5,7], f32[10,6])) -> (s32[], f32[3,5], f32[5,7], f32[10,6]) {
  %state = (s32[], f32[3,5]{1,0}, f32[5,7]{1,0}, f32[10,6]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %u = f32[3,5]{1,0} get-tuple-element(%state), index=1
  %v = f32[5,7]{1,0} get-tuple-element(%state), index=2
  %table = f32[10,6]{1,0} get-tuple-element(%state), index=3
  %fusion.1 = f32[3,7]{1,0} fusion(%u, %v), kind=kCustom, calls=%product
  %fusion.2 = f32[1,6]{1,0} fusion(%table, %i), kind=kLoop, calls=%slice_row
  %fusion.3 = f32[10,6]{1,0} fusion(%table, %fusion.2, %i), kind=kLoop, calls=%write_row
  ROOT %tuple.1 = (s32[], f32[3,5]{1,0}, f32[5,7]{1,0}, f32[10,6]{1,0}) tuple(%i, %u, %v, %fusion.3)
}

ENTRY %main (small: f32[2,4,4,8], large: f32[2,8,8,3], kernel: f32[8,4,4,3]) -> f32[2,8,8,3] {
  %small = f32[2,4,4,8]{3,2,1,0} parameter(0), metadata={op_name="x"}
  %large = f32[2,8,8,3]{3,2,1,0} parameter(1)
  %kernel = f32[8,4,4,3]{3,2,1,0} parameter(2)
  %s = (s32[], f32[3,5]{1,0}, f32[5,7]{1,0}, f32[10,6]{1,0}) parameter(3)
  %loop = (s32[], f32[3,5]{1,0}, f32[5,7]{1,0}, f32[10,6]{1,0}) while(%s), body=%body, LOOP
  %conv.1 = (f32[2,4,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%large, %kernel), OWN, Forward
  %conv.2 = (f32[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%small, %kernel), OWN, BackwardInput
  %conv.3 = (f32[8,4,4,3]{3,2,1,0}, u8[16]{0}) custom-call(%large, %small), OWN, BackwardFilter
  %pad_fusion = f32[2,7,7,8]{3,2,1,0} fusion(%small), kind=kLoop, calls=%zeros_between
  %bitcast.1 = f32[2,7,7,8]{3,2,1,0} bitcast(%pad_fusion)
  %conv.4 = (f32[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%bitcast.1, %kernel), STRIDE1, Forward
  %conv.5 = (f32[8,4,4,3]{3,2,1,0}, u8[0]{0}) custom-call(%large, %small), DILATED, Forward
  %conv.6 = (f32[2,4,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%large, %kernel), GROUPS, OWN, Forward
  ROOT %copy.1 = f32[2,8,8,3]{3,2,1,0} copy(%large), metadata={op_name="y"}
}
"""
ATTRIBUTES = {
    "LOOP": 'condition=%add, backend_config={"known_trip_count":{"n":"10"}}',
    "OWN": "window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f",
    "STRIDE1": "window={size=4x4 pad=2_2x2_2}, dim_labels=b01f_i01o->b01f",
    "DILATED": "window={size=4x4 pad=1_1x1_1 rhs_dilate=2x2}, dim_labels=f01b_i01o->f01b",
    "GROUPS": "feature_group_count=3",
    "Forward\n": 'custom_call_target="__cudnn$convForward"\n',
    "BackwardInput\n": 'custom_call_target="__cudnn$convBackwardInput"\n',
    "BackwardFilter\n": 'custom_call_target="__cudnn$convBackwardFilter"\n',
}
for word, attribute in ATTRIBUTES.items():
    TEXT = TEXT.replace(f" {word}", f" {attribute}")
SMALL, LARGE, KERNEL = (4 * n for n in (2 * 4 * 4 * 8, 2 * 8 * 8 * 3, 8 * 4 * 4 * 3))  # bytes
FLOPS = 2 * 2 * 4 * 4 * 8 * 4 * 4 * 3  # of the layer: every small pixel meets every tap


def test_kernels_of_a_text_are_those_counted_by_hand():
    assert Module(TEXT).kernels() == [
        Kernel(10, 2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7)),
        Kernel(10, 0, 4 * (6 + 1 + 6)),  # one row of ten, and its index
        Kernel(10, 0, 4 * (6 + 1 + 6)),
        Kernel(1, FLOPS, LARGE + KERNEL + SMALL, "forward"),
        Kernel(1, FLOPS, SMALL + KERNEL + LARGE, "input"),
        Kernel(1, FLOPS, LARGE + SMALL + KERNEL + 16, "filter"),
        Kernel(1, 0, SMALL + 4 * 2 * 7 * 7 * 8),
        # Four times the multiplications: every large pixel meets every tap.
        Kernel(1, 4 * FLOPS, 4 * 2 * 7 * 7 * 8 + KERNEL + LARGE, "forward", "zeros"),
        Kernel(1, FLOPS, LARGE + SMALL + KERNEL, "forward", "window"),
        Kernel(1, FLOPS, LARGE + KERNEL + SMALL, "forward", "groups"),
        Kernel(1, 0, 2 * LARGE),
    ]
