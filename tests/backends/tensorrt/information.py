"""What inspectors tell, in the forms that their documents and public outputs show; the networks are made up.

TEN is the form of docs.nvidia.com/deeplearning/tensorrt/10.16.1/inference-library/engine-tools.html, with the separator
between ONNX layers as the builder's log has it; ELEVEN that of 11.x by the page on migrating from 10.x to 11.x, with
the keys of a layer's tensors that the log of the builder of TensorRT for RTX 1.7 has; NAMES is what engines tell that
were built without detailed profiling verbosity.
"""

TEN = """{"Layers": [{
  "Name": "conv1 + relu1",
  "LayerType": "CaskConvolution",
  "Inputs": [
  {
    "Name": "x",
    "Location": "Device",
    "Dimensions": [1,16,8,8],
    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"
  }],
  "Outputs": [
  {
    "Name": "y",
    "Location": "Device",
    "Dimensions": [1,4,8,8],
    "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"
  }],
  "ParameterType": "Convolution",
  "Kernel": [3,3],
  "Weights": {"Type": "Int8", "Count": 576},
  "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
  "TacticValue": "0x1ddb2c6ea8a8dd3f",
  "StreamId": 0,
  "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]"
},{
  "Name": "gemm_myl0_1",
  "LayerType": "gemm",
  "Inputs": [
  {"Name": "y_q", "Dimensions": [1,64], "Format/Datatype": "Int8"},
  {"Name": "__mye12_dconst", "Dimensions": [64,10], "Format/Datatype": "Int8"},
  {"Name": "__mye13_dconst", "Dimensions": [10], "Format/Datatype": "Float"}],
  "Outputs": [{"Name": "z", "Dimensions": [1,10], "Format/Datatype": "Float"}],
  "TacticName": "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n",
  "StreamId": 0,
  "Metadata": "[ONNX Layer: fc]"
},{
  "Name": "shuffle",
  "LayerType": "NoOp",
  "Inputs": [{"Name": "z", "Dimensions": [-1,10], "Format/Datatype": "N/A due to dynamic shapes"}],
  "Outputs": [{"Name": "o", "Dimensions": [-1,10], "Format/Datatype": "N/A due to dynamic shapes"}],
  "TacticValue": "0x0000000000000000"
}],
"Bindings": ["x"
,"o"]}"""

ELEVEN = """{"ProfilingVerbosity": "Detailed", "Layers": [{
  "Name": "conv0_myl0_1",
  "LayerType": "correlation",
  "Inputs": [{"Name": "a", "Dimensions": [1,8,16,16], "Strides": [2048,1,128,8], "StrideOrder": [3,0,2,1],
    "Datatype": "Int8", "Format": "(NHWC) Channel major format"}],
  "Constants": [{"Name": "w", "Dimensions": [16,8,3,3], "Strides": [72,1,24,8], "StrideOrder": [3,0,2,1],
    "Datatype": "Int8", "Format": "(NHWC) Channel major format"}],
  "Outputs": [{"Name": "o", "Dimensions": [1,16,16,16], "Strides": [4096,1,256,16], "StrideOrder": [3,0,2,1],
    "Datatype": "Float", "Format": "(NHWC) Channel major format"}],
  "TacticName": "sm86_xmma_fprop_i8",
  "StreamId": 0,
  "Metadata": "[ONNX Layer: conv0][ONNX Layer: <img src=x onerror=alert(1)>]"
}],
"I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Float", "Dimensions": [1,8,16,16], "Location": "Device"}],
"Engine Metadata": {"Multi-Device": "Disabled"}}"""

NAMES = '{"Layers": ["conv1 + relu1"\n,"fc"], "Bindings": ["x"\n,"o"]}'
